//! What the model card says of the models: intended use, misuse, licence, citation.

/// Intended use, in the card's sense.
pub(crate) const INTENDED_USE: &str = "\
Inference on text together with a video or with one or more images, interleaved at will: captioning, questions about what \
is seen, comparing pictures, reading text in them, telling stories. The models do not generate images or video. English.";

/// Misuse, in the card's sense.
pub(crate) const MISUSE: &str = "\
Not for high-stakes scenarios or decisions that affect a person's well-being or livelihood: what a model says may sound \
factual and be wrong. Prohibited: evaluating or scoring people (employment, education, credit), critical automated \
decisions, producing unreliable facts; spam, disinformation, harassment or abuse, unauthorised surveillance.";

/// Licence of the published checkpoints.
pub(crate) const LICENCE: &str = "Apache-2.0 (SmolVLM2 by Hugging Face, built on SigLIP and SmolLM2)";

/// The paper.
pub(crate) const CITATION: &str = "\
Marafioti, Zohar, Farré, Noyan, Bakouch, Cuenca, Zakka, Ben Allal, Lozhkov, Tazi, Srivastav, Lochner, Larcher, Morlon, \
Tunstall, von Werra, Wolf: SmolVLM: Redefining small and efficient multimodal models. arXiv:2504.05299, 2025.";
