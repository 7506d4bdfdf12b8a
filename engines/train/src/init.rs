//! Initial values of new parameters.

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use serde::{Deserialize, Serialize};

/// How LoRA's `A`, `[rank, inputs]`, starts. `B` starts at 0, so the model starts as the pretrained one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AInit {
    /// N(0, 1/rank): `E‖A·x‖² = ‖x‖²`.
    Normal,
    /// U(±√(6/(2·inputs))): PyTorch's `kaiming_uniform_(a = 1)`.
    #[default]
    KaimingUniform,
    /// N(0, 2/(2·inputs)): `kaiming_normal_(a = 1)`.
    KaimingNormal,
    /// U(±√(6/(inputs + rank))).
    XavierUniform,
    /// N(0, 2/(inputs + rank)).
    XavierNormal,
    /// Orthonormal rows (columns when `rank > inputs`): Gram–Schmidt on a Gaussian matrix.
    Orthogonal,
}

impl AInit {
    /// A matrix `[rank, inputs]`, row-major.
    pub fn draw(self, rank: usize, inputs: usize, rng: &mut ChaCha20Rng) -> Vec<f32> {
        let (r, n) = (rank as f64, inputs as f64);
        let count = rank * inputs;
        match self {
            Self::Normal => gaussian(count, (1.0 / r).sqrt(), rng),
            Self::KaimingUniform => uniform(count, (3.0 / n).sqrt(), rng),
            Self::KaimingNormal => gaussian(count, (1.0 / n).sqrt(), rng),
            Self::XavierUniform => uniform(count, (6.0 / (n + r)).sqrt(), rng),
            Self::XavierNormal => gaussian(count, (2.0 / (n + r)).sqrt(), rng),
            Self::Orthogonal => orthogonal(rank, inputs, rng),
        }
    }
}

/// `n` values of N(0, `deviation`²). Initial values only: privacy noise comes from `sprint-dp`.
pub(crate) fn gaussian(n: usize, deviation: f64, rng: &mut ChaCha20Rng) -> Vec<f32> {
    let mut out = Vec::with_capacity(n + 1);
    while out.len() < n {
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt() * deviation;
        let (sin, cos) = (std::f64::consts::TAU * unit(rng)).sin_cos();
        out.push((radius * cos) as f32);
        out.push((radius * sin) as f32);
    }
    out.truncate(n);
    out
}

fn uniform(n: usize, bound: f64, rng: &mut ChaCha20Rng) -> Vec<f32> {
    (0..n).map(|_| ((2.0 * unit(rng) - 1.0) * bound) as f32).collect()
}

/// Uniform in [0, 1) with 53 bits.
fn unit(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn orthogonal(rows: usize, columns: usize, rng: &mut ChaCha20Rng) -> Vec<f32> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let basis = orthonormal(gaussian(count * length, 1.0, rng), length, count, rng);
    let at = |r: usize, c: usize| if rows <= columns { basis[r * length + c] } else { basis[c * length + r] };
    (0..rows * columns).map(|i| at(i / columns, i % columns)).collect()
}

/// The rows of `vectors[width, len]` orthonormalised one after the other (modified Gram–Schmidt in f64); a row that depends on those before it
/// is drawn anew.
pub(crate) fn orthonormal(vectors: Vec<f32>, len: usize, width: usize, rng: &mut ChaCha20Rng) -> Vec<f32> {
    let mut done: Vec<Vec<f64>> = Vec::with_capacity(width);
    for vector in vectors.chunks_exact(len) {
        let mut vector: Vec<f64> = vector.iter().map(|v| f64::from(*v)).collect();
        loop {
            let before = norm(&vector);
            // Twice is enough for orthogonality to rounding (Giraud, Langou and Rozložník 2005).
            for other in done.iter().chain(&done) {
                let along: f64 = vector.iter().zip(other).map(|(v, o)| v * o).sum();
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
            let after = norm(&vector);
            if after > 1e-6 * before {
                vector.iter_mut().for_each(|v| *v /= after);
                break;
            }
            vector = gaussian(len, 1.0, rng).into_iter().map(f64::from).collect();
        }
        done.push(vector);
    }
    done.into_iter().flatten().map(|v| v as f32).collect()
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::AInit;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn draw(init: AInit, rank: usize, inputs: usize) -> Vec<f64> {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        init.draw(rank, inputs, &mut rng).into_iter().map(f64::from).collect()
    }

    #[test]
    fn each_initialisation_has_its_variance_and_mean_zero() {
        let (rank, inputs) = (16, 4096);
        let expected = [
            (AInit::Normal, 1.0 / 16.0),
            (AInit::KaimingUniform, 1.0 / 4096.0),
            (AInit::KaimingNormal, 1.0 / 4096.0),
            (AInit::XavierUniform, 2.0 / 4112.0),
            (AInit::XavierNormal, 2.0 / 4112.0),
        ];
        for (init, variance) in expected {
            let a = draw(init, rank, inputs);
            let mean = a.iter().sum::<f64>() / a.len() as f64;
            let found = a.iter().map(|v| v * v).sum::<f64>() / a.len() as f64;
            // 65,536 draws: the sample variance has relative deviation √(2/n) = 0.55 %, the mean √(variance/n).
            assert!((found / variance - 1.0).abs() < 0.03, "{init:?}: {found} for {variance}");
            assert!(mean.abs() < 5.0 * (variance / a.len() as f64).sqrt(), "{init:?}: {mean}");
        }
    }

    #[test]
    fn orthogonal_rows_are_orthonormal_and_so_are_columns_of_a_tall_matrix() {
        for (rows, columns) in [(8, 32), (32, 8)] {
            let a = draw(AInit::Orthogonal, rows, columns);
            let vector = |i: usize| -> Vec<f64> {
                if rows < columns {
                    a[i * columns..(i + 1) * columns].to_vec()
                } else {
                    (0..rows).map(|r| a[r * columns + i]).collect()
                }
            };
            for i in 0..8 {
                for j in 0..8 {
                    let dot: f64 = vector(i).iter().zip(vector(j)).map(|(x, y)| x * y).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-5, "{i} {j} {dot}");
                }
            }
        }
    }
}
