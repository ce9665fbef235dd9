//! Building: stages in parallel, steps in order, each by its key.
