//! Running a subject next to the reference.

use std::fmt::Write as _;

use super::cases::{Case, Operand, Plain, apply, models, operations};
use super::{Fixture, Reference, Values, variants};
use crate::{Batch, Checkpoint, EmbeddingEngine, Engine, embed};

/// An interpreter under test, and how plain values get in and out of it.
pub trait Subject {
    /// Its `[batch, tokens, channels]`.
    type Act: Clone;
    /// Its `[batch, heads, rows, columns]`.
    type Heads: Clone;
    /// The interpreter, made for one batch.
    type Engine<'a>: Engine<Act = Self::Act, Heads = Self::Heads>;

    /// The interpreter of `batch` under `checkpoint`'s weights, not training.
    fn engine<'a>(&self, checkpoint: &'a Checkpoint, batch: &'a Batch) -> Self::Engine<'a>;
    /// Brings values in.
    fn put_act(&self, e: &mut Self::Engine<'_>, x: &Values<3>) -> Self::Act;
    /// Brings values in.
    fn put_heads(&self, e: &mut Self::Engine<'_>, x: &Values<4>) -> Self::Heads;
    /// Reads values out; a deferred engine evaluates here.
    fn get_act(&self, e: &mut Self::Engine<'_>, x: &Self::Act) -> Values<3>;
    /// Reads values out; a deferred engine evaluates here.
    fn get_heads(&self, e: &mut Self::Engine<'_>, x: &Self::Heads) -> Values<4>;
    /// The error allowed in a case, relative to `max(1, |reference|)`; `None` if the interpreter does not have the operation.
    ///
    /// Cases are called by operation (`linear`, `map.gelu`, `mask_keys.exp`), whole models `encode: …` and `classify: …`.
    fn tolerance(&self, case: &str) -> Option<f64>;
}

/// How far a subject was from the reference in one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The case.
    pub case: String,
    /// The largest `|x - y| / max(1, |y|)`, infinite if a value was not finite.
    pub error: f64,
    /// What was allowed.
    pub tolerance: f64,
}

/// Runs every case that the subject has; `Err` names a case in which either side failed.
pub fn measure<S: Subject>(subject: &S) -> Result<Vec<Measured>, String> {
    let fixtures = variants();
    let tuned = fixtures.iter().find(|fixture| fixture.checkpoint.spec().lora.is_some()).expect("a variant has lora");
    let mut measured = Vec::new();
    let single = operations(tuned).into_iter().map(|case| (tuned, case));
    let whole = fixtures.iter().flat_map(|fixture| models(fixture).into_iter().map(move |case| (fixture, case)));
    for (fixture, case) in single.chain(whole) {
        let Some(tolerance) = subject.tolerance(&case.name) else { continue };
        let expected = reference(fixture, &case).map_err(|e| format!("{}: the reference: {e}", case.name))?;
        let found = run(subject, fixture, &case).map_err(|e| format!("{}: {e}", case.name))?;
        let error = compare(&fixture.batch, &expected, &found).map_err(|e| format!("{}: {e}", case.name))?;
        measured.push(Measured { case: case.name, error, tolerance });
    }
    Ok(measured)
}

/// Runs every case and panics with all that are too far off.
pub fn assert_conforms<S: Subject>(subject: &S) -> Vec<Measured> {
    let measured = measure(subject).unwrap_or_else(|error| panic!("{error}"));
    assert!(!measured.is_empty(), "a subject that has no operation conforms to nothing");
    let mut failures = String::new();
    // Written so that an error that is not a number fails.
    for m in measured.iter().filter(|m| m.error.partial_cmp(&m.tolerance).is_none_or(std::cmp::Ordering::is_gt)) {
        writeln!(failures, "{}: error {:e}, allowed {:e}", m.case, m.error, m.tolerance).expect("writing to a string");
    }
    assert!(failures.is_empty(), "not conforming:\n{failures}");
    measured
}

/// Compares the embedding output of every variant within `tolerance`.
pub fn assert_embeds<S: Subject>(subject: &S, tolerance: f64)
where
    for<'a> S::Engine<'a>: EmbeddingEngine,
{
    for fixture in variants() {
        let spec = fixture.checkpoint.spec();
        let expected = embed(&mut Reference::new(&fixture.checkpoint, &fixture.batch), spec).expect("the fixture fits");
        let mut engine = subject.engine(&fixture.checkpoint, &fixture.batch);
        let found = embed(&mut engine, spec).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        let found = subject.get_act(&mut engine, &found);
        let error = compare(&fixture.batch, &Operand::Act(expected), &Operand::Act(found));
        let error = error.unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        assert!(error <= tolerance, "embedding of {}: error {error:e}, allowed {tolerance:e}", fixture.name);
    }
}

fn reference(fixture: &Fixture, case: &Case<'_>) -> Result<Plain, String> {
    let mut engine = Reference::new(&fixture.checkpoint, &fixture.batch);
    apply(&mut engine, &case.operation, &case.operands).map_err(|error| error.to_string())
}

fn run<S: Subject>(subject: &S, fixture: &Fixture, case: &Case<'_>) -> Result<Plain, String> {
    let mut engine = subject.engine(&fixture.checkpoint, &fixture.batch);
    let mut operands = Vec::new();
    for operand in &case.operands {
        operands.push(match operand {
            Operand::Act(x) => Operand::Act(subject.put_act(&mut engine, x)),
            Operand::Heads(x) => Operand::Heads(subject.put_heads(&mut engine, x)),
        });
    }
    let result = apply(&mut engine, &case.operation, &operands).map_err(|error| error.to_string())?;
    Ok(match result {
        Operand::Act(x) => Operand::Act(subject.get_act(&mut engine, &x)),
        Operand::Heads(x) => Operand::Heads(subject.get_heads(&mut engine, &x)),
    })
}

fn compare(batch: &Batch, expected: &Plain, found: &Plain) -> Result<f64, String> {
    match (expected, found) {
        (Operand::Act(y), Operand::Act(x)) => {
            let [_, tokens, channels] = y.shape;
            let real = |index: usize| is_real(batch, tokens, index / (tokens * channels), index / channels % tokens);
            largest_error(y, x, real)
        }
        (Operand::Heads(y), Operand::Heads(x)) => {
            let [_, heads, rows, columns] = y.shape;
            let real = |index: usize| is_real(batch, rows, index / (heads * rows * columns), index / columns % rows);
            largest_error(y, x, real)
        }
        _ => Err("a tensor of the other kind".to_owned()),
    }
}

/// Whether an element belongs to a real token: an engine may do as it likes with the others. One row an example is real whatever its length.
fn is_real(batch: &Batch, rows: usize, example: usize, row: usize) -> bool {
    rows != batch.tokens() || row < batch.lengths()[example]
}

fn largest_error<const N: usize>(y: &Values<N>, x: &Values<N>, real: impl Fn(usize) -> bool) -> Result<f64, String> {
    if x.shape != y.shape {
        return Err(format!("shape {:?} where the reference has {:?}", x.shape, y.shape));
    }
    let pairs = x.data.iter().zip(&y.data).enumerate().filter(|(index, _)| real(*index));
    let errors = pairs.map(|(_, (x, y))| if x.is_finite() { (x - y).abs() / y.abs().max(1.0) } else { f64::INFINITY });
    Ok(errors.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Func;
    use crate::conformance::ReferenceError;

    /// The reference as a subject, with one operation planted wrong.
    struct Planted<'p>(&'p str);

    struct Wrong<'a> {
        inner: Reference<'a>,
        what: &'a str,
    }

    impl Subject for Planted<'static> {
        type Act = Values<3>;
        type Heads = Values<4>;
        type Engine<'a> = Wrong<'a>;

        fn engine<'a>(&self, checkpoint: &'a Checkpoint, batch: &'a Batch) -> Wrong<'a> {
            Wrong { inner: Reference::new(checkpoint, batch), what: self.0 }
        }

        fn put_act(&self, _: &mut Wrong<'_>, x: &Values<3>) -> Values<3> {
            x.clone()
        }

        fn put_heads(&self, _: &mut Wrong<'_>, x: &Values<4>) -> Values<4> {
            x.clone()
        }

        fn get_act(&self, _: &mut Wrong<'_>, x: &Values<3>) -> Values<3> {
            x.clone()
        }

        fn get_heads(&self, _: &mut Wrong<'_>, x: &Values<4>) -> Values<4> {
            x.clone()
        }

        fn tolerance(&self, _: &str) -> Option<f64> {
            Some(1e-9)
        }
    }

    macro_rules! forward {
        ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {$(
            fn $name(&mut self, $($arg: $kind),*) -> Result<$out, ReferenceError> {
                let mut out = self.inner.$name($($arg),*)?;
                if self.what == stringify!($name) {
                    out.data[0] += 1e-3;
                }
                Ok(out)
            }
        )*};
    }

    impl Engine for Wrong<'_> {
        type Act = Values<3>;
        type Heads = Values<4>;
        type Error = ReferenceError;

        forward! {
            linear(x: &Values<3>, layer: &crate::Linear) -> Values<3>;
            add(a: &Values<3>, b: &Values<3>) -> Values<3>;
            scale(x: &Values<3>, factor: f64) -> Values<3>;
            map(x: &Values<3>, f: Func) -> Values<3>;
            layer_norm(x: &Values<3>, norm: &crate::LayerNorm) -> Values<3>;
            dropout(x: &Values<3>, p: f64) -> Values<3>;
            pool(x: &Values<3>, pooling: crate::Pooling) -> Values<3>;
            split_heads(x: &Values<3>, heads: usize) -> Values<4>;
            merge_heads(x: &Values<4>) -> Values<3>;
            scores(q: &Values<4>, k: &Values<4>, factor: f64) -> Values<4>;
            mask_keys(s: &Values<4>) -> Values<4>;
            drop_keys(s: &Values<4>) -> Values<4>;
            row_max(s: &Values<4>) -> Values<4>;
            row_sum(s: &Values<4>) -> Values<4>;
            sub_rows(s: &Values<4>, r: &Values<4>) -> Values<4>;
            mul_rows(s: &Values<4>, r: &Values<4>) -> Values<4>;
            shift_heads(s: &Values<4>, c: f64) -> Values<4>;
            map_heads(s: &Values<4>, f: Func) -> Values<4>;
            reciprocal_rows(r: &Values<4>, lo: f64, hi_per_key: f64) -> Values<4>;
            divide_by_length(s: &Values<4>) -> Values<4>;
            attend(p: &Values<4>, v: &Values<4>) -> Values<4>;
        }
    }

    #[test]
    fn the_reference_conforms_to_itself_and_keeps_the_models_promises() {
        let measured = assert_conforms(&Planted("nothing"));
        assert!(measured.len() > 60 && measured.iter().all(|m| m.error == 0.0));
    }

    #[test]
    fn an_error_of_a_thousandth_in_any_operation_is_caught() {
        let operations = [
            "linear",
            "add",
            "scale",
            "map",
            "layer_norm",
            "dropout",
            "pool",
            "split_heads",
            "merge_heads",
            "scores",
            "mask_keys",
            "drop_keys",
            "row_max",
            "row_sum",
            "sub_rows",
            "mul_rows",
            "shift_heads",
            "map_heads",
            "reciprocal_rows",
            "divide_by_length",
            "attend",
        ];
        for operation in operations {
            let measured = measure(&Planted(operation));
            let caught = measured.is_err() || measured.is_ok_and(|all| all.iter().any(|m| m.error > m.tolerance));
            assert!(caught, "an error in {operation} goes unnoticed");
        }
    }
}
