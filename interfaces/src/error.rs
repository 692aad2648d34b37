//! What can go wrong with a call itself, whatever the callee does.

use core::fmt;

use crate::Exchangeable;

/// Why a call across domains did not return the callee's own result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
#[repr(u32)]
pub enum CallError {
    /// The callee crashed while this call was inside it. What was moved to it is gone.
    Crashed = 1,
    /// The callee is being restarted. Nothing was moved; call again soon.
    Restarting = 2,
    /// The operator stopped the callee. Nothing was moved.
    Stopped = 3,
    /// The callee will not come back (restart limit), or this capability belongs to an earlier generation of it: open it anew
    /// through the port.
    Gone = 4,
    /// The callee's quota does not admit what was to be moved. Nothing was moved.
    Overloaded = 5,
    /// The caller's stack is too short for the callee. Nothing was moved.
    StackShort = 6,
    /// A blocking wait was cancelled, since the thread's own domain is ending.
    Cancelled = 7,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallError::Crashed => "the callee crashed during the call",
            CallError::Restarting => "the callee is restarting",
            CallError::Stopped => "the callee has been stopped",
            CallError::Gone => "the callee, or this generation of it, is gone",
            CallError::Overloaded => "the callee's quota is exhausted",
            CallError::StackShort => "the caller's stack is too short for this call",
            CallError::Cancelled => "the wait was cancelled",
        })
    }
}

impl core::error::Error for CallError {}

/// A wait ended because its domain is being stopped or killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;
