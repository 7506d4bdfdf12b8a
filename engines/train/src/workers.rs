//! Threads that each compute a physical batch of their own.
//!
//! Backends on the CPU do not scale within one autodiff graph: most operations are small or bound by memory. Whole graphs do. Each worker
//! runs inside a pool of one thread, so the backend's own parallel loops stay on that thread.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// A fixed number of single-threaded workers.
#[derive(Debug)]
pub(crate) struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// `threads` workers, or one a core for 0.
    pub(crate) fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let pools = (0..threads).map(|_| ThreadPoolBuilder::new().num_threads(1).build()).collect::<Result<_, _>>()?;
        Ok(Self { pools })
    }

    /// How many workers.
    pub(crate) fn count(&self) -> usize {
        self.pools.len()
    }

    /// Folds items `0..items`, item `i` on worker `i mod count` in ascending order; the accumulators come back in worker order, so the
    /// result is a function of the number of workers and not of timing. The first error stops every worker.
    pub(crate) fn fold<A: Send, E: Send>(
        &self,
        items: usize,
        empty: impl Fn() -> A + Sync,
        add: impl Fn(&mut A, usize) -> Result<(), E> + Sync,
    ) -> Result<Vec<A>, E> {
        let stop = AtomicBool::new(false);
        let share = |worker: usize| {
            let mut total = empty();
            for item in (worker..items).step_by(self.pools.len()) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = add(&mut total, item) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(total)
        };
        std::thread::scope(|scope| {
            let share = &share;
            let spawn = |(worker, pool): (usize, _)| {
                let pool: &ThreadPool = pool;
                scope.spawn(move || pool.install(|| share(worker)))
            };
            let handles: Vec<_> = self.pools.iter().enumerate().map(spawn).collect();
            let join = |handle: std::thread::ScopedJoinHandle<'_, Result<A, E>>| match handle.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // Joined to the end, so that an error in one worker does not hide another's panic.
            handles.into_iter().map(join).collect::<Vec<_>>().into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Workers;

    #[test]
    fn every_item_is_folded_once_by_its_worker() {
        let workers = Workers::new(3).expect("threads");
        let totals = workers.fold(10, Vec::new, |seen: &mut Vec<usize>, item| {
            seen.push(item);
            Ok::<_, ()>(())
        });
        assert_eq!(totals, Ok(vec![vec![0, 3, 6, 9], vec![1, 4, 7], vec![2, 5, 8]]));
        assert_eq!(workers.fold(0, || 7, |_, _| Err(())), Ok(vec![7, 7, 7]));
    }

    #[test]
    fn an_error_is_returned() {
        let workers = Workers::new(2).expect("threads");
        let result = workers.fold(100, || (), |(), item| if item == 51 { Err(item) } else { Ok(()) });
        assert_eq!(result, Err(51));
    }
}
