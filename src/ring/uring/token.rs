//! What a completion is about, in the 64 bits that the kernel carries for each operation.

use crate::conns::INDEX_MAX;

/// The operation a completion ends. The numbers stand in the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Connect = 2,
    Receive = 3,
    Send = 4,
    Write = 5,
    Sync = 6,
    Wake = 7,
    CancelAccept = 8,
    CancelConnect = 9,
    CancelReceive = 10,
    CancelSend = 11,
    CancelAny = 12,
}

impl Kind {
    fn from_bits(bits: u64) -> Option<Kind> {
        Some(match bits {
            1 => Kind::Accept,
            2 => Kind::Connect,
            3 => Kind::Receive,
            4 => Kind::Send,
            5 => Kind::Write,
            6 => Kind::Sync,
            7 => Kind::Wake,
            8 => Kind::CancelAccept,
            9 => Kind::CancelConnect,
            10 => Kind::CancelReceive,
            11 => Kind::CancelSend,
            12 => Kind::CancelAny,
            _ => return None,
        })
    }

    /// The operation that cancels this one, if it can be cancelled.
    pub(super) fn cancel(self) -> Option<Kind> {
        match self {
            Kind::Accept => Some(Kind::CancelAccept),
            Kind::Connect => Some(Kind::CancelConnect),
            Kind::Receive => Some(Kind::CancelReceive),
            Kind::Send => Some(Kind::CancelSend),
            _ => None,
        }
    }

    pub(super) fn is_cancel(self) -> bool {
        matches!(
            self,
            Kind::CancelAccept
                | Kind::CancelConnect
                | Kind::CancelReceive
                | Kind::CancelSend
                | Kind::CancelAny
        )
    }
}

/// Kind (4 bits), index (28) and generation (32): a completion of a former owner of an index is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) index: u32,
    pub(super) generation: u32,
}

const KIND_SHIFT: u32 = 60;
const INDEX_SHIFT: u32 = 32;

impl Token {
    pub(super) fn new(kind: Kind, index: u32, generation: u32) -> Token {
        debug_assert!(index <= INDEX_MAX);
        Token { kind, index, generation }
    }

    pub(super) fn pack(self) -> u64 {
        (u64::from(self.kind as u8) << KIND_SHIFT)
            | (u64::from(self.index & INDEX_MAX) << INDEX_SHIFT)
            | u64::from(self.generation)
    }

    pub(super) fn unpack(bits: u64) -> Option<Token> {
        let kind = Kind::from_bits(bits >> KIND_SHIFT)?;
        let index = u32::try_from((bits >> INDEX_SHIFT) & u64::from(INDEX_MAX)).ok()?;
        let generation = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Token { kind, index, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for kind in 1..=12 {
            let kind = Kind::from_bits(kind).unwrap();
            for index in [0, 1, 9_999, INDEX_MAX] {
                for generation in [0, 1, u32::MAX] {
                    let token = Token::new(kind, index, generation);
                    assert_eq!(Token::unpack(token.pack()), Some(token));
                }
            }
        }
        assert_eq!(Token::unpack(0), None);
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
