//! RUN: a process in a snapshot of the image so far, and what it has written.
