//! Training on the tiny reference checkpoint, against what PyTorch made of it (`goldens/tiny/training`).

mod answers;
mod goldens;
mod gpu;
mod gradients;
mod lora;
mod saved;
mod steps;
