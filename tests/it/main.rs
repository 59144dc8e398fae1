//! Black-box and whole-repository tests; one binary, because every link costs.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod cli;
