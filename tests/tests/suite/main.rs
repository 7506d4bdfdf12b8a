//! What a user meets: the program as a process, with its files, exit codes, signals and texts.

mod binary;
mod cli;
mod interrupts;
mod privacy;
mod sentence;
mod serving;
mod workflow;
