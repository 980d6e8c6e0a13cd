//! Products with everything around them, and norms alone.

use smolvlm_kernels::packed::Arrangement;
use smolvlm_kernels::training::{LinearBackward, LinearGradients, LowRank, NormGradients, Rescale};
use smolvlm_kernels::{Activation, Backend, Format, LinearArgs, Norm, TrainBackend};

use crate::case::{Case, Named, bytes, check_by_differences, check_on_the_processor, numbers, of, rng, view};

#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Rms,
    Layer,
}

/// `onto` stands for a gradient that came from elsewhere; its own gradient is that of a residual, which adds `x`.
struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    norm: Before,
    activation: Activation,
    bias: bool,
    residual: bool,
    format: Format,
}

const EPS: f32 = 1e-3;

fn norm<'a, B: TrainBackend>(kind: Before, weight: &'a B::Vector, bias: &'a B::Vector) -> Option<Norm<'a, B>> {
    match kind {
        Before::Nothing => None,
        Before::Rms => Some(Norm::Rms { weight, eps: EPS }),
        Before::Layer => Some(Norm::Layer { weight, bias, eps: EPS }),
    }
}

impl Linear {
    fn weight<B: TrainBackend>(&self, backend: &B, numbers: &[f32]) -> B::Weight {
        let bytes = bytes(numbers);
        if self.activation == Activation::SwiGlu {
            let (gate, up) = bytes.split_at(bytes.len() / 2);
            return backend.pack_gate_up(view(self.outputs / 2, gate), view(self.outputs / 2, up), self.format);
        }
        backend.pack(&[view(self.outputs, &bytes)], self.format)
    }

    fn arrangement(&self) -> Arrangement {
        if self.activation == Activation::SwiGlu { Arrangement::GateUp } else { Arrangement::Stacked }
    }

    fn width(&self) -> usize {
        if self.activation == Activation::SwiGlu { self.outputs / 2 } else { self.outputs }
    }
}

impl Linear {
    /// The result, of the operation that keeps or of the one that answers.
    fn result<B: TrainBackend>(&self, backend: &B, inputs: &Named, keeping: bool) -> Vec<f32> {
        let x = backend.upload(self.rows, self.inputs, of(inputs, "x"));
        let weight = self.weight(backend, of(inputs, "weight"));
        let vector = |name, wanted: bool| backend.vector(if wanted { of(inputs, name) } else { &[] });
        let bias = vector("bias", self.bias);
        let norm_weight = vector("norm weight", self.norm != Before::Nothing);
        let norm_bias = vector("norm bias", self.norm == Before::Layer);
        let args = LinearArgs {
            norm: norm(self.norm, &norm_weight, &norm_bias),
            bias: self.bias.then_some(&bias),
            activation: self.activation,
            residual: self.residual.then_some(&x),
            ..LinearArgs::new(&x, &weight)
        };
        backend.download(&if keeping { backend.linear_keeping(args).0 } else { backend.linear(args) })
    }
}

impl Case for Linear {
    fn inputs(&self) -> Named {
        let mut rng = rng(self.rows as u64 + 3);
        let mut inputs = vec![
            ("x", numbers(&mut rng, self.rows * self.inputs)),
            ("weight", numbers(&mut rng, self.outputs * self.inputs)),
        ];
        if self.bias {
            inputs.push(("bias", numbers(&mut rng, self.outputs)));
        }
        if self.norm != Before::Nothing {
            inputs.push(("norm weight", numbers(&mut rng, self.inputs)));
        }
        if self.norm == Before::Layer {
            inputs.push(("norm bias", numbers(&mut rng, self.inputs)));
        }
        inputs
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        self.result(backend, inputs, true)
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let x = backend.upload(self.rows, self.inputs, of(inputs, "x"));
        let weight = self.weight(backend, of(inputs, "weight"));
        let transposed = backend.transposed(&weight, self.arrangement());
        let vector = |name, wanted: bool| backend.vector(if wanted { of(inputs, name) } else { &[] });
        let bias = vector("bias", self.bias);
        let norm_weight = vector("norm weight", self.norm != Before::Nothing);
        let norm_bias = vector("norm bias", self.norm == Before::Layer);
        let args = LinearArgs {
            norm: norm(self.norm, &norm_weight, &norm_bias),
            bias: self.bias.then_some(&bias),
            activation: self.activation,
            ..LinearArgs::new(&x, &weight)
        };
        let (_, saved) = backend.linear_keeping(args);
        let dy_tensor = backend.upload(self.rows, self.width(), dy);
        let mut gradients: Vec<B::Floats> = inputs.iter().map(|(_, numbers)| backend.zeros(numbers.len())).collect();
        let mut rest = gradients[1..].iter_mut();
        let into = LinearGradients {
            weight: rest.next(),
            bias: if self.bias { rest.next() } else { None },
            norm: NormGradients { weight: rest.next(), bias: rest.next() },
        };
        let dx = backend.linear_backward(LinearBackward {
            x: &x,
            norm: norm(self.norm, &norm_weight, &norm_bias),
            weight: &weight,
            transposed: Some(&transposed),
            activation: self.activation,
            saved: &saved,
            dy: &dy_tensor,
            onto: self.residual.then(|| backend.copy(&dy_tensor)),
            gradients: into,
        });
        let mut found: Vec<Vec<f32>> = gradients.iter().map(|gradient| backend.read(gradient)).collect();
        found[0] = backend.download(&dx.expect("a gradient of x"));
        found
    }

    fn format(&self) -> Format {
        self.format
    }
}

fn linear(rows: usize, inputs: usize, outputs: usize, format: Format) -> Vec<(String, Linear)> {
    let mut cases = Vec::new();
    for norm in [Before::Nothing, Before::Rms, Before::Layer] {
        for activation in [Activation::Identity, Activation::GeluTanh, Activation::SwiGlu] {
            let bias = norm == Before::Layer && activation != Activation::SwiGlu;
            let residual = activation == Activation::Identity && inputs == outputs;
            let what = format!("{rows} × {inputs} → {outputs}, norm {}, {activation:?}, {format:?}", norm as u8);
            cases.push((what, Linear { rows, inputs, outputs, norm, activation, bias, residual, format }));
        }
    }
    cases
}

#[test]
fn products_agree_with_differences() {
    for (what, case) in linear(3, 5, 6, Format::F32).iter().chain(&linear(2, 4, 4, Format::F32)) {
        check_by_differences(what, case);
    }
}

#[test]
fn products_on_the_processor_agree_with_the_reference() {
    for format in [Format::F32, Format::Bf16] {
        for (rows, inputs, outputs) in [(1, 64, 64), (70, 48, 144), (33, 100, 34), (200, 72, 72)] {
            for (what, case) in linear(rows, inputs, outputs, format) {
                check_on_the_processor(&what, &case);
            }
        }
    }
}

#[test]
fn keeping_changes_no_bit_on_the_processor() {
    for format in [Format::F32, Format::Bf16] {
        for (what, case) in linear(33, 100, 34, format).iter().chain(&linear(200, 72, 72, format)) {
            let inputs = case.inputs();
            for set in smolvlm_kernels::cpu::InstructionSet::available() {
                let backend = smolvlm_kernels::CpuBackend::with_instruction_set(2, set).expect("threads start");
                let [kept, plain] = [true, false].map(|keeping| case.result(&backend, &inputs, keeping));
                assert!(kept == plain, "{what} on {}", set.name);
            }
        }
    }
}

/// Quantised weights are frozen: only `x` has a gradient.
#[test]
fn quantised_weights_pass_gradients_on() {
    for format in [Format::Q8, Format::Q4] {
        for (what, case) in linear(9, 96, 64, format) {
            let inputs = case.inputs();
            let dy = numbers(&mut rng(5), case.rows * case.width());
            let expected = case.backward(&smolvlm_kernels::ReferenceBackend, &inputs, &dy).swap_remove(0);
            for set in smolvlm_kernels::cpu::InstructionSet::available() {
                let backend = smolvlm_kernels::CpuBackend::with_instruction_set(2, set).expect("threads start");
                let found = case.backward(&backend, &inputs, &dy).swap_remove(0);
                crate::case::assert_close(&format!("{what} on {}", set.name), &found, &expected, 2e-2);
            }
        }
    }
}

struct NormAlone {
    rows: usize,
    width: usize,
    kind: Before,
}

impl Case for NormAlone {
    fn inputs(&self) -> Named {
        let mut rng = rng(9);
        let mut inputs =
            vec![("x", numbers(&mut rng, self.rows * self.width)), ("weight", numbers(&mut rng, self.width))];
        if self.kind == Before::Layer {
            inputs.push(("bias", numbers(&mut rng, self.width)));
        }
        inputs
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let x = backend.upload(self.rows, self.width, of(inputs, "x"));
        let weight = backend.vector(of(inputs, "weight"));
        let bias = backend.vector(if self.kind == Before::Layer { of(inputs, "bias") } else { &[] });
        backend.download(&backend.norm(&x, norm(self.kind, &weight, &bias).expect("a norm")))
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let x = backend.upload(self.rows, self.width, of(inputs, "x"));
        let weight = backend.vector(of(inputs, "weight"));
        let bias = backend.vector(if self.kind == Before::Layer { of(inputs, "bias") } else { &[] });
        let mut gradients = [backend.zeros(self.width), backend.zeros(self.width)];
        let [dw, db] = &mut gradients;
        let bias_gradient = (self.kind == Before::Layer).then_some(db);
        let dx = backend.norm_backward(
            &x,
            &norm(self.kind, &weight, &bias).expect("a norm"),
            &backend.upload(self.rows, self.width, dy),
            None,
            NormGradients { weight: Some(dw), bias: bias_gradient },
        );
        let mut found = vec![backend.download(&dx), backend.read(&gradients[0])];
        if self.kind == Before::Layer {
            found.push(backend.read(&gradients[1]));
        }
        found
    }
}

#[test]
fn norms_agree_with_differences_and_on_the_processor_with_the_reference() {
    for kind in [Before::Rms, Before::Layer] {
        check_by_differences("norm", &NormAlone { rows: 3, width: 7, kind });
        for (rows, width) in [(1, 16), (67, 100), (300, 48)] {
            check_on_the_processor("norm", &NormAlone { rows, width, kind });
        }
    }
}

/// A product with an addend before its activation, as an adapter's; the way back goes through the activation first.
struct Adapted(Linear);

impl Case for Adapted {
    fn inputs(&self) -> Named {
        let mut inputs = self.0.inputs();
        inputs.push(("addend", numbers(&mut rng(15), self.0.rows * self.0.outputs)));
        inputs
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        let x = backend.upload(self.0.rows, self.0.inputs, of(inputs, "x"));
        let addend = backend.upload(self.0.rows, self.0.outputs, of(inputs, "addend"));
        let weight = self.0.weight(backend, of(inputs, "weight"));
        let residual = self.0.residual.then_some(&x);
        let args = LinearArgs { activation: self.0.activation, residual, ..LinearArgs::new(&x, &weight) };
        backend.download(&backend.linear_adapted(args, &addend).0)
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        let x = backend.upload(self.0.rows, self.0.inputs, of(inputs, "x"));
        let addend = backend.upload(self.0.rows, self.0.outputs, of(inputs, "addend"));
        let weight = self.0.weight(backend, of(inputs, "weight"));
        let transposed = backend.transposed(&weight, self.0.arrangement());
        let activation = self.0.activation;
        let (_, saved) = backend.linear_adapted(LinearArgs { activation, ..LinearArgs::new(&x, &weight) }, &addend);
        let dy = backend.upload(self.0.rows, self.0.width(), dy);
        let before = backend.activation_backward(activation, &saved, &dy);
        assert_eq!(before.is_some(), activation != Activation::Identity);
        let dy_before = before.as_ref().unwrap_or(&dy);
        let mut gradient = backend.zeros(self.0.outputs * self.0.inputs);
        let dx = backend.linear_backward(LinearBackward {
            x: &x,
            norm: None,
            weight: &weight,
            transposed: Some(&transposed),
            activation: Activation::Identity,
            saved: &saved,
            dy: dy_before,
            onto: self.0.residual.then(|| backend.copy(&dy)),
            gradients: LinearGradients { weight: Some(&mut gradient), ..LinearGradients::default() },
        });
        let dx = backend.download(&dx.expect("a gradient of x"));
        vec![dx, backend.read(&gradient), backend.download(dy_before)]
    }
}

#[test]
fn products_with_an_addend_agree_with_differences_and_on_the_processor_with_the_reference() {
    for activation in [Activation::Identity, Activation::GeluTanh, Activation::SwiGlu] {
        for (rows, inputs, outputs) in [(3, 6, 6), (40, 64, 70), (35, 34, 34)] {
            let residual = inputs == outputs && activation == Activation::Identity;
            let (norm, bias, format) = (Before::Nothing, false, Format::F32);
            let case = Adapted(Linear { rows, inputs, outputs, norm, activation, bias, residual, format });
            let what = format!("{rows} × {inputs} → {outputs} with an addend, {activation:?}");
            if rows < 10 {
                check_by_differences(&what, &case);
            }
            check_on_the_processor(&what, &case);
        }
    }
}

/// The same, with outputs that are rescaled before the bias is added; the norms are constants.
struct Rescaled(Linear);

impl Rescaled {
    /// One row of zeros, as a weight may have.
    fn norms(&self) -> Vec<f32> {
        (0..self.0.outputs).map(|output| if output == 1 { 0.0 } else { 0.5 + output as f32 / 16.0 }).collect()
    }

    /// Calls `body` with everything on the backend.
    fn with<B: TrainBackend, R>(
        &self,
        backend: &B,
        inputs: &Named,
        body: impl FnOnce(LinearArgs<'_, B>, &B::Tensor, Rescale<'_, B>) -> R,
    ) -> R {
        let Linear { rows, inputs: width, outputs, activation, residual, .. } = self.0;
        let x = backend.upload(rows, width, of(inputs, "x"));
        let weight = self.0.weight(backend, of(inputs, "weight"));
        let addend = backend.upload(rows, outputs, of(inputs, "addend"));
        let (lengths, norms) = (backend.floats(of(inputs, "lengths")), backend.floats(&self.norms()));
        let bias = backend.vector(of(inputs, "bias"));
        let residual = residual.then_some(&x);
        let args = LinearArgs { activation, bias: Some(&bias), residual, ..LinearArgs::new(&x, &weight) };
        body(args, &addend, Rescale { lengths: &lengths, norms: &norms })
    }
}

impl Case for Rescaled {
    fn inputs(&self) -> Named {
        let mut inputs = self.0.inputs();
        inputs.push(("addend", numbers(&mut rng(16), self.0.rows * self.0.outputs)));
        inputs.push(("lengths", numbers(&mut rng(17), self.0.outputs)));
        inputs
    }

    fn forward<B: TrainBackend>(&self, backend: &B, inputs: &Named) -> Vec<f32> {
        self.with(backend, inputs, |args, addend, rescale| {
            backend.download(&backend.linear_rescaled(args, addend, rescale).0)
        })
    }

    fn backward<B: TrainBackend>(&self, backend: &B, inputs: &Named, dy: &[f32]) -> Vec<Vec<f32>> {
        self.with(backend, inputs, |args, addend, rescale| {
            let (x, weight, activation) = (args.x, args.weight, args.activation);
            let (_, saved, product) = backend.linear_rescaled(args, addend, rescale);
            let dy = backend.upload(self.0.rows, self.0.width(), dy);
            let before = backend.activation_backward(activation, &saved, &dy);
            let before = before.as_ref().unwrap_or(&dy);
            let mut lengths = backend.zeros(self.0.outputs);
            let dproduct = backend.rescale_backward(&product, before, rescale, &mut lengths);
            let (mut gradient, transposed) =
                (backend.zeros(self.0.outputs * self.0.inputs), backend.transposed(weight, self.0.arrangement()));
            let dx = backend.linear_backward(LinearBackward {
                x,
                norm: None,
                weight,
                transposed: Some(&transposed),
                activation: Activation::Identity,
                saved: &saved,
                dy: &dproduct,
                onto: self.0.residual.then(|| backend.copy(&dy)),
                gradients: LinearGradients { weight: Some(&mut gradient), ..LinearGradients::default() },
            });
            let mut bias = vec![0.0; self.0.outputs];
            for row in backend.download(before).chunks(self.0.outputs) {
                bias.iter_mut().zip(row).for_each(|(sum, dy)| *sum += dy);
            }
            let dx = backend.download(&dx.expect("a gradient of x"));
            vec![dx, backend.read(&gradient), bias, backend.download(&dproduct), backend.read(&lengths)]
        })
    }
}

#[test]
fn rescaled_outputs_agree_with_differences_and_on_the_processor_with_the_reference() {
    for activation in [Activation::Identity, Activation::GeluTanh, Activation::SwiGlu] {
        for (rows, inputs, outputs) in [(3, 6, 6), (70, 64, 70), (35, 34, 34)] {
            let residual = inputs == outputs && activation == Activation::Identity;
            let (norm, bias, format) = (Before::Nothing, true, Format::F32);
            let case = Rescaled(Linear { rows, inputs, outputs, norm, activation, bias, residual, format });
            let what = format!("{rows} × {inputs} → {outputs} rescaled, {activation:?}");
            if rows < 10 {
                check_by_differences(&what, &case);
            }
            check_on_the_processor(&what, &case);
        }
    }
}

/// Rows that keep their lengths change nothing.
#[test]
fn outputs_of_unchanged_length_are_those_of_a_product_with_an_addend() {
    let backend = smolvlm_kernels::CpuBackend::new(2).expect("threads");
    for (activation, format) in
        [(Activation::SwiGlu, Format::Bf16), (Activation::GeluTanh, Format::F32), (Activation::SwiGlu, Format::Q8)]
    {
        let (norm, bias, residual) = (Before::Nothing, false, false);
        let case = Linear { rows: 5, inputs: 64, outputs: 36, norm, activation, bias, residual, format };
        let inputs = case.inputs();
        let x = backend.upload(5, 64, of(&inputs, "x"));
        let addend = backend.upload(5, 36, &numbers(&mut rng(20), 5 * 36));
        let (weight, lengths) = (case.weight(&backend, of(&inputs, "weight")), backend.floats(&[3.5; 36]));
        let args = || LinearArgs { activation, for_products: true, ..LinearArgs::new(&x, &weight) };
        let rescale = Rescale { lengths: &lengths, norms: &lengths };
        let (found, ..) = backend.linear_rescaled(args(), &addend, rescale);
        assert_eq!(backend.download(&found), backend.download(&backend.linear_adapted(args(), &addend).0));
    }
}

#[test]
fn norms_of_rows_are_those_of_the_weight_and_what_is_added() {
    fn norms<B: TrainBackend>(backend: &B, case: &Linear) -> Vec<f32> {
        let (inputs, ranks) = (case.inputs(), 3);
        let (a, b) = (numbers(&mut rng(18), ranks * case.inputs), numbers(&mut rng(19), case.outputs * ranks));
        let low = LowRank { a: &backend.floats(&a), b: &backend.floats(&b), scale: 0.5 };
        backend.read(&backend.row_norms(&case.weight(backend, of(&inputs, "weight")), case.arrangement(), low))
    }
    let (rows, inputs, norm, bias, residual) = (1, 96, Before::Nothing, false, false);
    for (activation, format) in
        [(Activation::SwiGlu, Format::F32), (Activation::SwiGlu, Format::Q4), (Activation::Identity, Format::Q8)]
    {
        let case = Linear { rows, inputs, outputs: 70, norm, activation, bias, residual, format };
        let expected = norms(&smolvlm_kernels::ReferenceBackend, &case);
        let found = norms(&smolvlm_kernels::CpuBackend::new(2).expect("threads"), &case);
        crate::case::assert_close(&format!("{activation:?} {format:?}"), &found, &expected, 1e-5);
    }
    // [3 4] + 0.5 · 2 · [1 2].
    let backend = smolvlm_kernels::ReferenceBackend;
    let weight = backend.pack(&[view(1, &bytes(&[3.0, 4.0]))], Format::F32);
    let low = LowRank { a: &vec![1.0, 2.0], b: &vec![2.0], scale: 0.5 };
    assert_eq!(backend.row_norms(&weight, Arrangement::Stacked, low), [(16.0_f32 + 36.0).sqrt()]);
}
