//! Owners by slot, as narrow as their number allows: a worker holds one table per cluster.

/// Members by slot.
#[derive(Debug)]
pub(super) enum Slots {
    /// Up to 256 members.
    Narrow(Vec<u8>),
    /// More of them.
    Wide(Vec<u16>),
}

impl Slots {
    /// No slots yet, and room for `slots` of them that belong to one of `members`.
    pub(super) fn with_capacity(members: u32, slots: usize) -> Self {
        if members <= u32::from(u8::MAX) + 1 {
            Self::Narrow(Vec::with_capacity(slots))
        } else {
            Self::Wide(Vec::with_capacity(slots))
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Narrow(owners) => owners.len(),
            Self::Wide(owners) => owners.len(),
        }
    }

    /// Adds a slot of `owner`.
    pub(super) fn push(&mut self, owner: u16) {
        match self {
            Self::Narrow(owners) => owners.push(u8::try_from(owner).unwrap_or(0)),
            Self::Wide(owners) => owners.push(owner),
        }
    }

    /// Gives the slot to `owner`; nothing happens where there is none.
    pub(super) fn set(&mut self, slot: u32, owner: u16) {
        match self {
            Self::Narrow(owners) => {
                if let Some(at) = owners.get_mut(slot as usize) {
                    *at = u8::try_from(owner).unwrap_or(0);
                }
            }
            Self::Wide(owners) => {
                if let Some(at) = owners.get_mut(slot as usize) {
                    *at = owner;
                }
            }
        }
    }

    /// The owner of the slot, if there is such a slot.
    pub(super) fn get(&self, slot: u32) -> Option<u32> {
        match self {
            Self::Narrow(owners) => owners.get(slot as usize).map(|owner| u32::from(*owner)),
            Self::Wide(owners) => owners.get(slot as usize).map(|owner| u32::from(*owner)),
        }
    }
}
