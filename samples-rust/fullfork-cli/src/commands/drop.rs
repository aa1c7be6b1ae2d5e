// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork drop`

use fullfork::{Flags, SnapshotStore};

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::holder;

pub(super) fn run(args: &args::Drop, context: &mut Context<'_>) -> Result<u8, Failure> {
    context.require(Flags::empty())?;
    match holder::connect()? {
        Some(held) => drop_all(args, &held.store)?,
        // Nothing is there, as was wanted.
        None if args.all => {}
        None => return Err(Failure::NoSnapshots),
    }
    Ok(0)
}

/// The first failure is told; the others are dropped nevertheless.
fn drop_all(args: &args::Drop, store: &SnapshotStore<'_>) -> Result<(), Failure> {
    let ids = if args.all {
        let snapshots = store.list().map_err(Failure::of("snapshots"))?;
        snapshots.iter().map(|entry| entry.id).collect()
    } else {
        args.ids.clone()
    };
    let drop = |id| store.drop_snapshot(id).map_err(Failure::of(format!("snapshot {id}")));
    ids.into_iter().map(drop).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use fullfork::SnapshotOptions;
    use fullfork::mock::Mock;

    use super::*;

    #[test]
    fn drops_the_others_if_one_fails() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let take = || store.take(&file, SnapshotOptions::default()).unwrap().keep();
        let (one, two) = (take(), take());
        let args = args::Drop { ids: vec![one, 99, two], all: false };
        let failure = drop_all(&args, &store).unwrap_err();
        assert!(failure.to_string().contains("snapshot 99"));
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn drops_all() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let _ = store.take(&file, SnapshotOptions::default()).unwrap().keep();
        drop_all(&args::Drop { ids: Vec::new(), all: true }, &store).unwrap();
        assert!(store.list().unwrap().is_empty());
    }
}
