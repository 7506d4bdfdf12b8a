//! What may run at once: processor threads, memory, named mutexes, and a number of jobs.

use std::collections::BTreeSet;

use crate::workflow::{Limits, Resources};

/// What is in use, and of how much.
#[derive(Debug)]
pub(crate) struct Capacity {
    cpu: u32,
    mem: u64,
    jobs: usize,
    used_cpu: u32,
    used_mem: u64,
    running: usize,
    held: BTreeSet<String>,
}

/// What one attempt holds; give it back with [`Capacity::release`].
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) cpu: u32,
    mem: u64,
    mutexes: Vec<String>,
}

impl Capacity {
    /// The workflow's limits, this machine's processors where it sets none; `jobs` attempts at once at most.
    pub(crate) fn new(limits: &Limits, cpus: usize, jobs: Option<usize>) -> Self {
        let cpu = limits.cpu.unwrap_or(cpus as u32).max(1);
        let mem = limits.mem.unwrap_or(u64::MAX);
        let jobs = jobs.unwrap_or(usize::MAX).max(1);
        Self { cpu, mem, jobs, used_cpu: 0, used_mem: 0, running: 0, held: BTreeSet::new() }
    }

    /// Takes a share if it fits now. A stage that wants more than there is gets all there is, alone.
    pub(crate) fn take(&mut self, wanted: Resources, mutexes: &[String]) -> Option<Share> {
        let (cpu, mem) = (wanted.cpu.min(self.cpu), wanted.mem.min(self.mem));
        let fits = self.used_cpu + cpu <= self.cpu && self.used_mem.saturating_add(mem) <= self.mem && self.running < self.jobs;
        if !fits || mutexes.iter().any(|m| self.held.contains(m)) {
            return None;
        }
        (self.used_cpu, self.used_mem, self.running) = (self.used_cpu + cpu, self.used_mem + mem, self.running + 1);
        self.held.extend(mutexes.iter().cloned());
        Some(Share { cpu, mem, mutexes: mutexes.to_vec() })
    }

    /// Gives a share back.
    pub(crate) fn release(&mut self, share: Share) {
        (self.used_cpu, self.used_mem, self.running) = (self.used_cpu - share.cpu, self.used_mem - share.mem, self.running - 1);
        for m in share.mutexes {
            self.held.remove(&m);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_limits() {
        let mut capacity = Capacity::new(&Limits { cpu: Some(2), mem: Some(100), max_usd: None }, 8, None);
        let small = Resources { cpu: 1, mem: 60 };
        let first = capacity.take(small, &[]).expect("fits");
        assert!(capacity.take(small, &[]).is_none(), "memory is exhausted");
        let second = capacity.take(Resources { cpu: 1, mem: 40 }, &[]).expect("fits beside the first");
        assert!(capacity.take(Resources { cpu: 1, mem: 0 }, &[]).is_none(), "processors are exhausted");
        capacity.release(first);
        capacity.release(second);
        let all = capacity.take(Resources { cpu: 64, mem: 1000 }, &[]).expect("more than there is means all there is");
        assert_eq!(all.cpu, 2);
    }

    #[test]
    fn a_mutex_has_one_holder_and_jobs_are_counted() {
        let mut capacity = Capacity::new(&Limits::default(), 8, Some(2));
        let lan = vec!["parties-lan".to_owned()];
        let first = capacity.take(Resources::default(), &lan).expect("free");
        assert!(capacity.take(Resources::default(), &lan).is_none());
        let _second = capacity.take(Resources::default(), &[]).expect("another job");
        assert!(capacity.take(Resources::default(), &[]).is_none(), "two jobs at most");
        capacity.release(first);
        assert!(capacity.take(Resources::default(), &lan).is_some());
    }
}
