//! A matrix that was packed, written to a file and mapped is the matrix that was packed.

use std::io::Write;
use std::sync::Arc;

use smolvlm_kernels::mapped::MappedFile;
use smolvlm_kernels::packed::{ALIGNMENT, Arrangement, PackedMatrix, PackedShape, unpack};
use smolvlm_kernels::{
    Activation, Backend, CacheShape, CpuBackend, Elements, Format, LinearArgs, MatrixView, ReferenceBackend, TokenBatch,
};

/// Outputs and inputs: whole panels and chunks, and parts of them.
const SHAPES: [(usize, usize); 6] = [(32, 64), (1, 1), (33, 65), (100, 31), (64, 576), (17, 130)];

/// Numbers of all sizes that depend on their place only.
fn numbers(count: usize, seed: f32) -> Vec<u8> {
    (0..count).flat_map(|i| ((i as f32 * 0.713 + seed).sin() * (1.0 + (i % 7) as f32)).to_le_bytes()).collect()
}

fn view(rows: usize, cols: usize, bytes: &[u8]) -> MatrixView<'_> {
    MatrixView::new(rows, cols, Elements::F32(bytes))
}

/// A file with `bytes` at the second multiple of the alignment.
fn mapped(bytes: &[u8]) -> Arc<MappedFile> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&[0; ALIGNMENT]).and_then(|()| file.write_all(bytes)).expect("written");
    Arc::new(MappedFile::open(file.path()).expect("mapped"))
}

fn read_back(bytes: &[u8], shape: PackedShape) -> PackedMatrix {
    assert_eq!(shape.bytes(), Some(bytes.len()), "{shape:?}");
    PackedMatrix::new(shape, mapped(bytes), ALIGNMENT..ALIGNMENT + bytes.len()).expect("it fits")
}

fn product<B: Backend>(backend: &B, weight: &B::Weight, inputs: usize, activation: Activation) -> Vec<u32> {
    let x: Vec<f32> = (0..3 * inputs).map(|i| (i as f32 * 0.37).cos()).collect();
    let x = backend.upload(3, inputs, &x);
    let out = backend.linear(LinearArgs { activation, ..LinearArgs::new(&x, weight) });
    backend.download(&out).iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_mapped_matrix_gives_the_bits_of_the_packed_one_on_every_backend() {
    let cpu = CpuBackend::new(2).expect("threads");
    for (outputs, inputs) in SHAPES {
        let (first, second) = (numbers(outputs * inputs, 0.0), numbers(outputs * inputs, 1.0));
        let (first, second) = (view(outputs, inputs, &first), view(outputs, inputs, &second));
        for format in Format::ALL {
            for arrangement in [Arrangement::Stacked, Arrangement::GateUp] {
                let gated = arrangement == Arrangement::GateUp;
                let activation = if gated { Activation::SwiGlu } else { Activation::Identity };
                let packed = match gated {
                    true => cpu.pack_gate_up(first, second, format),
                    false => cpu.pack(&[first, second], format),
                };
                let plain = match gated {
                    true => ReferenceBackend.pack_gate_up(first, second, format),
                    false => ReferenceBackend.pack(&[first, second], format),
                };
                let matrix = read_back(packed.bytes(), PackedShape { rows: 2 * outputs, inputs, arrangement, format });
                let what = format!("{outputs} × {inputs}, {format:?}, {arrangement:?}");
                let again = cpu.packed(matrix.clone());
                assert!(again.bytes() == packed.bytes(), "{what}");
                let expected = product(&cpu, &packed, inputs, activation);
                assert_eq!(product(&cpu, &again, inputs, activation), expected, "{what}");
                let expected = product(&ReferenceBackend, &plain, inputs, activation);
                assert_eq!(
                    product(&ReferenceBackend, &ReferenceBackend.packed(matrix), inputs, activation),
                    expected,
                    "{what}, reference"
                );
            }
        }
    }
}

fn rows_of<B: Backend>(backend: &B, table: &B::Table) -> Vec<u32> {
    let mut plan = backend.plan();
    let shape = CacheShape { layers: 1, kv_heads: 1, head_dim: 2, pages: 1, format: Format::F32 };
    let batch = TokenBatch { ids: vec![4, 0, 6, 4], ..TokenBatch::default() };
    backend.fill_tokens(&mut plan, &mut backend.cache(shape), &batch);
    backend.download(&backend.embed(&plan, table)).iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_mapped_table_gives_the_rows_of_the_stored_one_on_every_backend() {
    let cpu = CpuBackend::new(1).expect("threads");
    let (rows, inputs, arrangement) = (7, 13, Arrangement::Table);
    let bytes = numbers(rows * inputs, 0.0);
    for format in [Format::F32, Format::Bf16, Format::Q8] {
        let table = cpu.table(view(rows, inputs, &bytes), format);
        let matrix = read_back(table.bytes(), PackedShape { rows, inputs, arrangement, format });
        assert_eq!(rows_of(&cpu, &cpu.packed_table(matrix.clone())), rows_of(&cpu, &table), "{format:?}");
        let expected = ReferenceBackend.table(view(rows, inputs, &bytes), format);
        let found = ReferenceBackend.packed_table(matrix);
        assert_eq!(rows_of(&ReferenceBackend, &found), rows_of(&ReferenceBackend, &expected), "{format:?}");
    }
    assert_eq!(PackedShape { rows, inputs, arrangement, format: Format::Q4 }.bytes(), None);
}

#[test]
fn the_layout_is_the_documented_one() {
    let cpu = CpuBackend::new(1).expect("threads");
    let (outputs, inputs) = (40, 70);
    let bytes = numbers(outputs * inputs, 0.0);
    let packed = cpu.pack(&[view(outputs, inputs, &bytes)], Format::F32);
    let panel = inputs.next_multiple_of(16) * 32 * 4;
    assert_eq!(packed.bytes().len(), 2 * panel);
    let (output, input) = (37, 69);
    let place = panel + (input * 32 + output - 32) * 4;
    assert_eq!(packed.bytes()[place..place + 4], bytes[(output * inputs + input) * 4..][..4]);

    let shape = PackedShape { rows: outputs, inputs, arrangement: Arrangement::Stacked, format: Format::Q8 };
    let packed = cpu.pack(&[view(outputs, inputs, &bytes)], Format::Q8);
    let unpacked = unpack(&read_back(packed.bytes(), shape));
    let sum: f32 = unpacked.numbers[output * inputs..][..inputs].iter().sum();
    let panel = 2 * 64 * 32 + 256;
    let place = 2 * panel - 128 + (output - 32) * 4;
    let stored = i32::from_le_bytes(packed.bytes()[place..place + 4].try_into().expect("four bytes"));
    assert_eq!(stored as f32, sum, "the sum of an output's integers");
}

#[test]
fn a_range_that_is_short_long_outside_or_unaligned_is_no_matrix() {
    let shape = PackedShape { rows: 3, inputs: 5, arrangement: Arrangement::Stacked, format: Format::Bf16 };
    let size = shape.bytes().expect("a size");
    let file = mapped(&vec![0; size]);
    let new = |start: usize, end: usize| PackedMatrix::new(shape, file.clone(), start..end);
    assert!(new(ALIGNMENT, ALIGNMENT + size).is_some());
    for (start, end) in [
        (ALIGNMENT, ALIGNMENT + size - 64),
        (0, ALIGNMENT + size),
        (ALIGNMENT - 4, ALIGNMENT + size - 4),
        (ALIGNMENT + 64, ALIGNMENT + size + 64),
        (usize::MAX - size + 1, usize::MAX),
        (ALIGNMENT + size, ALIGNMENT),
    ] {
        assert!(new(start, end).is_none(), "{start}..{end}");
    }
    let vast = |rows, inputs, arrangement| PackedShape { rows, inputs, arrangement, format: Format::F32 }.bytes();
    for arrangement in Arrangement::ALL {
        assert_eq!(vast(usize::MAX - 1, usize::MAX, arrangement), None);
        assert_eq!(vast(1 << 40, 1 << 40, arrangement), None);
    }
    assert_eq!(vast(3, 64, Arrangement::GateUp), None, "no pair");
}
