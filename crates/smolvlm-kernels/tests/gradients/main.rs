//! Every backward: of the scalar reference against finite differences of its own forward operation, and of every
//! instruction set that this machine has, and of the first GPU where `SMOLVLM_TEST_CUDA` asks for it, against the scalar reference.

mod attention;
mod case;
mod linear;
mod loss;
mod rows;
