//! Chance, for secrets: keys of hash tables, first sequence numbers, identifiers of questions.

use interfaces::abi::kernel;

/// A number that nobody can foretell, another each time. It takes a microsecond: for secrets, not for streams.
pub fn number() -> u64 {
    (kernel().random)()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        interfaces::host::connect();
        assert_ne!(number(), number());
    }
}
