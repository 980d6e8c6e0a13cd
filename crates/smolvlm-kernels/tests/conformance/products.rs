//! Linear layers, alone and after each other.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::{Activation, Backend, Format, LinearArgs, Norm};

use crate::{
    BF16_TOLERANCE, Case, FORMATS, GPU_BF16_TOLERANCE, SHAPES, Stored, as_stored, conforms, numbers, tolerance,
};

struct Linear {
    x: (usize, Vec<f32>),
    weight: Stored,
    second: Option<Stored>,
    bias: Option<Vec<f32>>,
    norm: Option<(Vec<f32>, Option<Vec<f32>>)>,
    residual: Option<Vec<f32>>,
    activation: Activation,
    format: Format,
}

impl Case for Linear {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let x = backend.upload(self.x.0, self.weight.cols, &self.x.1);
        let weight = match &self.second {
            Some(up) => backend.pack_gate_up(self.weight.view(), up.view(), self.format),
            None => backend.pack(&[self.weight.view()], self.format),
        };
        let bias = self.bias.as_ref().map(|bias| backend.vector(bias));
        let norm = self.norm.as_ref().map(|(w, b)| (backend.vector(w), b.as_ref().map(|b| backend.vector(b))));
        let residual = self.residual.as_ref().map(|r| backend.upload(self.x.0, self.weight.rows, r));
        let out = backend.linear(LinearArgs {
            bias: bias.as_ref(),
            norm: norm.as_ref().map(|(weight, bias)| match bias {
                Some(bias) => Norm::Layer { weight, bias, eps: 1e-6 },
                None => Norm::Rms { weight, eps: 1e-5 },
            }),
            activation: self.activation,
            residual: residual.as_ref(),
            ..LinearArgs::new(&x, &weight)
        });
        backend.download(&out)
    }

    fn format(&self) -> Format {
        self.format
    }
}

#[test]
fn a_linear_layer_with_each_norm_and_epilogue_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (rows, inputs, outputs) in SHAPES {
        for format in FORMATS {
            for activation in [Activation::Identity, Activation::GeluTanh] {
                for layer_norm in [None, Some(false), Some(true)] {
                    let norm =
                        layer_norm.map(|layer| (numbers(&mut rng, inputs), layer.then(|| numbers(&mut rng, inputs))));
                    let case = Linear {
                        x: (rows, numbers(&mut rng, rows * inputs)),
                        weight: Stored::random(&mut rng, outputs, inputs),
                        second: None,
                        bias: rng.random_bool(0.5).then(|| numbers(&mut rng, outputs)),
                        norm,
                        residual: rng.random_bool(0.5).then(|| numbers(&mut rng, rows * outputs)),
                        activation,
                        format,
                    };
                    // A norm in f32 and in f64 may round to neighbouring bfloat16 numbers.
                    let slack = if case.norm.is_some() && format == Format::Bf16 { 20.0 } else { 1.0 };
                    conforms(&format!("{rows}×{inputs}×{outputs} {format:?}"), slack * tolerance(format), case);
                }
            }
        }
    }
}

#[test]
fn a_gated_layer_equals_the_reference_at_any_width() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, inputs, outputs) in SHAPES {
        for format in FORMATS {
            let case = Linear {
                x: (rows, numbers(&mut rng, rows * inputs)),
                weight: Stored::random(&mut rng, outputs, inputs),
                second: Some(Stored::random(&mut rng, outputs, inputs)),
                bias: None,
                norm: None,
                residual: None,
                activation: Activation::SwiGlu,
                format,
            };
            conforms(&format!("{rows}×{inputs}×{outputs} gated {format:?}"), tolerance(format), case);
        }
    }
}

/// An MLP between residuals, everything stored as the format stores it: a product, a norm and a product with an activation, a product with a
/// residual.
struct Mlp {
    rows: usize,
    x: Vec<f32>,
    weights: [Stored; 3],
    biases: [Vec<f32>; 3],
    norm: [Vec<f32>; 2],
}

impl Case for Mlp {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let weights = self.weights.each_ref().map(|weight| backend.pack(&[weight.view()], Format::Bf16));
        let [before, b1, b2] = self.biases.each_ref().map(|bias| backend.vector(bias));
        let [weight, bias] = self.norm.each_ref().map(|norm| backend.vector(norm));
        let x = backend.upload(self.rows, self.weights[0].cols, &self.x);
        let x = backend.linear(LinearArgs { bias: Some(&before), ..LinearArgs::new(&x, &weights[0]) });
        let norm = Some(Norm::Layer { weight: &weight, bias: &bias, eps: 1e-6 });
        let activation = Activation::GeluTanh;
        let h = backend.linear(LinearArgs {
            norm,
            activation,
            bias: Some(&b1),
            for_products: true,
            ..LinearArgs::new(&x, &weights[1])
        });
        let out =
            backend.linear(LinearArgs { bias: Some(&b2), residual: Some(&x), ..LinearArgs::new(&h, &weights[2]) });
        [backend.download(&x), backend.download(&h), backend.download(&out)].concat()
    }

    fn format(&self) -> Format {
        Format::Bf16
    }
}

#[test]
fn an_mlp_of_many_rows_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (rows, inputs, width, mlp) in
        [(512, 64, 128, 256), (700, 72, 136, 264), (1301, 200, 72, 648), (3000, 24, 200, 40)]
    {
        let case = Mlp {
            rows,
            x: numbers(&mut rng, rows * inputs),
            weights: [(width, inputs), (mlp, width), (width, mlp)]
                .map(|(outputs, inputs)| Stored::random(&mut rng, outputs, inputs)),
            biases: [width, mlp, width].map(|count| numbers(&mut rng, count)),
            norm: [0, 1].map(|_| numbers(&mut rng, width)),
        };
        // Norms in f32 and in f64 may round to neighbouring bfloat16 numbers, and three roundings follow each other: a row or an input in the wrong place is off by the whole.
        conforms(&format!("{rows} rows of {inputs}, {width}, {mlp}"), GPU_BF16_TOLERANCE, case);
    }
}

/// A product of activations as a layer stores them: what the kernels for tens to hundreds of rows take.
struct Stage {
    rows: usize,
    x: Vec<f32>,
    weight: Stored,
    second: Option<Stored>,
    norm: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    format: Format,
}

impl Case for Stage {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let x = as_stored(backend, self.rows, self.weight.cols, &self.x, self.format);
        let residual = self.residual.as_ref().map(|r| as_stored(backend, self.rows, self.weight.rows, r, self.format));
        let weight = match &self.second {
            Some(up) => backend.pack_gate_up(self.weight.view(), up.view(), self.format),
            None => backend.pack(&[self.weight.view()], self.format),
        };
        let norm = self.norm.as_ref().map(|weight| backend.vector(weight));
        let activation = if self.second.is_some() { Activation::SwiGlu } else { Activation::Identity };
        let norm = norm.as_ref().map(|weight| Norm::Rms { weight, eps: 1e-5 });
        let args = LinearArgs { norm, activation, residual: residual.as_ref(), ..LinearArgs::new(&x, &weight) };
        backend.download(&backend.linear(args))
    }

    fn format(&self) -> Format {
        self.format
    }
}

/// Rows that leave tiles half empty, inputs that end inside a chunk, outputs that end inside a tile; the 256M model's own widths.
#[test]
fn stages_of_a_decoding_layer_equal_the_reference_for_any_number_of_sequences() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let shapes =
        [(5, 576, 960), (16, 200, 72), (17, 72, 264), (33, 576, 576), (64, 136, 1544), (65, 64, 8), (100, 576, 96)];
    let larger = [(129, 200, 200), (256, 136, 968), (300, 64, 1000), (8, 1536, 576), (130, 648, 40)];
    for (rows, inputs, outputs) in shapes.into_iter().chain(larger) {
        for (gated, normed) in [(false, false), (false, true), (true, true), (true, false)] {
            let case = Stage {
                rows,
                x: numbers(&mut rng, rows * inputs),
                weight: Stored::random(&mut rng, outputs, inputs),
                second: gated.then(|| Stored::random(&mut rng, outputs, inputs)),
                norm: normed.then(|| numbers(&mut rng, inputs)),
                residual: (!gated && !normed && outputs < 600).then(|| numbers(&mut rng, rows * outputs)),
                format: Format::Bf16,
            };
            // Norms round at another place than the reference.
            let slack = if normed { 200.0 } else { 1.0 };
            let what = format!("a stage of {rows}×{inputs}×{outputs}, gated {gated}, normed {normed}");
            conforms(&what, slack * BF16_TOLERANCE, case);
        }
    }
}
