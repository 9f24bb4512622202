//! The program: seeds, threads, time, and what people read.
