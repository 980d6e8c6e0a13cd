//! AdamW over all parameters.

use serde::Deserialize;
use smolvlm_kernels::TrainBackend;
use smolvlm_kernels::training::{AdamW, AdamWPart};

use crate::parameters::{Group, lock};
use crate::taped::Taped;
use crate::{Error, Result};

/// What stays the same from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSettings {
    /// Decay of the gradients' mean.
    pub beta1: f64,
    /// Decay of the squares' mean.
    pub beta2: f64,
    /// Added to the root of the squares' mean.
    pub eps: f64,
    /// Weight decay, decoupled, of the matrices of products.
    #[serde(rename = "weight_decay")]
    pub decay: f64,
    /// Gradients are scaled down so that their norm over all parameters is at most this; none: they are left alone.
    pub clip: Option<f64>,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, clip: Some(1.0) }
    }
}

/// Learning rates of one step. What has the rate zero is left alone: it does not decay, and its moments wait.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Of the vision tower.
    pub vision: f64,
    /// Of the connector.
    pub connector: f64,
    /// Of the text model.
    pub text: f64,
}

impl Rates {
    /// One rate for all.
    pub fn same(rate: f64) -> Self {
        Self { vision: rate, connector: rate, text: rate }
    }

    /// All rates times a schedule's factor.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self { vision: self.vision * factor, connector: self.connector * factor, text: self.text * factor }
    }

    /// That of a group.
    pub fn of(self, group: Group) -> f64 {
        match group {
            Group::Vision => self.vision,
            Group::Connector => self.connector,
            Group::Text => self.text,
        }
    }
}

/// Moments of every parameter, in the parameters' order.
pub struct Optimizer<B: TrainBackend> {
    pub(crate) settings: OptimizerSettings,
    pub(crate) moments: Vec<Moments<B>>,
}

/// Of one parameter.
pub(crate) struct Moments<B: TrainBackend> {
    pub(crate) first: B::Floats,
    pub(crate) second: B::Floats,
    /// Steps that it has taken.
    pub(crate) steps: u64,
}

impl<B: TrainBackend> Optimizer<B> {
    /// Moments of zero for everything that learns.
    pub fn new(taped: &Taped<B>, settings: OptimizerSettings) -> Self {
        let zeros = |len| taped.inner().zeros(len);
        let parameters = taped.parameters();
        let fresh = parameters.iter().map(|parameter| parameter.len());
        let moments = fresh.map(|len| Moments { first: zeros(len), second: zeros(len), steps: 0 }).collect();
        Self { settings, moments }
    }

    /// One step; returns the gradients' norm before they are clipped.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when it is not finite: nothing has moved then.
    pub fn update(&mut self, taped: &Taped<B>, rates: Rates) -> Result<f64> {
        let (backend, parameters) = (taped.inner(), taped.parameters());
        assert_eq!(parameters.len(), self.moments.len(), "an optimizer belongs to one model");
        let learning = || parameters.iter().filter(|parameter| rates.of(parameter.group()) != 0.0);
        let gradients: Vec<_> = learning().map(|parameter| lock(&parameter.gradient)).collect();
        // Of no parts it is −0.
        let norm = backend.norm_of_all(&gradients.iter().map(|gradient| &**gradient).collect::<Vec<_>>()) + 0.0;
        drop(gradients);
        backend.failure()?;
        if !norm.is_finite() {
            return Err(Error::input(format!("the norm of the gradients is {norm}: the step is left out")));
        }
        let gradient_scale = self.settings.clip.map_or(1.0, |most| clip_factor(norm, most));
        let OptimizerSettings { beta1, beta2, eps, decay, .. } = self.settings;
        let mut guards: Vec<_> =
            learning().map(|parameter| (lock(&parameter.master), lock(&parameter.gradient))).collect();
        let moving =
            parameters.iter().zip(&mut self.moments).filter(|(parameter, _)| rates.of(parameter.group()) != 0.0);
        let mut parts = Vec::new();
        for ((parameter, moments), (master, gradient)) in moving.zip(&mut guards) {
            moments.steps += 1;
            let (rate, decay) = (rates.of(parameter.group()), if parameter.decays() { decay } else { 0.0 });
            let step = AdamW { rate, beta1, beta2, eps, decay, gradient_scale, step: moments.steps };
            let Moments { first, second, .. } = moments;
            parts.push(AdamWPart { step, master: &mut **master, gradient: &**gradient, first, second });
        }
        backend.adamw(&mut parts);
        drop(parts);
        drop(guards);
        learning().for_each(|parameter| parameter.refresh(backend));
        backend.failure()?;
        Ok(norm)
    }
}

/// `torch.nn.utils.clip_grad_norm_`.
fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}
