//! What must hold.

use crate::call::{Call, View, Violation};

/// The model.
#[derive(Debug, Default)]
pub struct Model {}

impl Model {
    /// Hears of a call, and checks what must hold after it.
    pub fn after(&mut self, call: &Call<'_>, view: View<'_>) -> Result<(), Violation> {
        let _ = (call, view.now);
        Ok(())
    }

    /// Everybody has left and all time has passed: nothing may be left.
    pub fn finish(&mut self, view: View<'_>) -> Result<(), Violation> {
        let _ = view.now;
        Ok(())
    }
}
