//! Random tokens.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smolvlm_kernels::{Backend, Draw, DrawRules, candidates, drawn};

use crate::{backends, gpu, numbers};

/// Rows of logits of all kinds: spread, with many equal ones, all equal, nearly sure, far apart.
fn kinds_of_logits(rng: &mut impl Rng, width: usize) -> Vec<Vec<f32>> {
    let spread: Vec<f32> = numbers(rng, width).iter().map(|x| 6.0 * x).collect();
    let equal = spread.iter().map(|x| x.round()).collect();
    let mut sure = numbers(rng, width);
    sure[width / 3] = 60.0;
    sure[width / 2] = 59.5;
    let far = spread.iter().map(|x| 20.0 * x).collect();
    vec![spread, equal, vec![1.5; width], sure, far]
}

#[test]
fn a_drawn_token_is_the_one_that_the_host_draws() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let off = DrawRules { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let rules = [
        off,
        DrawRules { temperature: 0.3, ..off },
        DrawRules { top_k: 1, ..off },
        DrawRules { top_k: 50, ..off },
        DrawRules { top_p: 0.7303, ..off },
        DrawRules { top_p: 1e-6, ..off },
        DrawRules { min_p: 0.07, ..off },
        DrawRules { temperature: 1.7, top_k: 400, top_p: 0.9007, min_p: 0.01 },
        DrawRules { top_k: usize::MAX, top_p: 0.5003, ..off },
    ];
    for width in [3, 64, 1000, 49_280] {
        let rows = kinds_of_logits(&mut rng, width);
        let mut draws = Vec::new();
        for row in 0..rows.len() {
            for rules in rules {
                draws.extend([0.0, rng.random(), rng.random(), 1.0 - f64::EPSILON].map(|uniform| Draw {
                    row,
                    rules,
                    uniform,
                }));
            }
        }
        for backend in backends() {
            check_draws(&backend, &rows, &draws);
        }
        if let Some(backend) = gpu() {
            check_draws(&*backend, &rows, &draws);
            backend.failure().expect("the GPU works");
        }
    }
}

fn check_draws<B: Backend>(backend: &B, rows: &[Vec<f32>], draws: &[Draw]) {
    // Probabilities are summed in f32.
    const BORDER: f64 = 1e-5;
    let width = rows[0].len();
    let mut found = Vec::new();
    backend.draw_into(&backend.upload(rows.len(), width, &rows.concat()), draws, &mut found);
    assert_eq!(found.len(), draws.len());
    for (draw, found) in draws.iter().zip(found) {
        if found == drawn(&rows[draw.row], &draw.rules, draw.uniform) {
            continue;
        }
        // Only at a border between two tokens may sums in another order decide otherwise.
        let kept = candidates(&rows[draw.row], &draw.rules);
        let Some(at) = kept.iter().position(|(id, _)| *id == found) else {
            // The last that stays may be another, and is drawn by what is nearly one.
            let DrawRules { top_p, min_p, .. } = draw.rules;
            let looser = DrawRules { top_p: top_p + BORDER as f32, min_p: min_p * 0.9999, ..draw.rules };
            let stays = candidates(&rows[draw.row], &looser).iter().any(|(id, _)| *id == found);
            assert!(stays && draw.uniform > 1.0 - 1e-4, "{draw:?} of {width}: {found} was not to be drawn");
            continue;
        };
        let before: f64 = kept[..at].iter().map(|(_, probability)| f64::from(*probability)).sum();
        let through = before + f64::from(kept[at].1);
        let near = before - BORDER <= draw.uniform && draw.uniform <= through + BORDER;
        assert!(near, "{draw:?} of {width}: {found}, which stands for {before}..{through}");
    }
}
