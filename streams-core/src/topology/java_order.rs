//! The order in which Java's collections hand out what was put in, where Kafka Streams' texts depend on it.

use std::cmp::Ordering;

const CAPACITY_MIN: usize = 16;

/// Places in `names` (unequal), in the order in which a `java.util.HashMap` iterates over them.
///
/// A map has a power of two of buckets, at least 16 and more than 4/3 of its entries. An entry is in the bucket of its hash code folded
/// onto itself; buckets are walked from the first, entries of one bucket in order of insertion.
pub(crate) fn hash_order(names: &[&str]) -> Vec<usize> {
    let mut capacity = CAPACITY_MIN;
    while names.len() > capacity / 4 * 3 {
        capacity *= 2;
    }
    let bucket = |name: &str| {
        let hash = name.encode_utf16().fold(0u32, |hash, unit| {
            hash.wrapping_mul(31).wrapping_add(u32::from(unit))
        });
        (hash ^ (hash >> 16)) as usize & (capacity - 1)
    };
    let mut places: Vec<usize> = (0..names.len()).collect();
    places.sort_by_key(|place| names.get(*place).map(|name| bucket(name)));
    places
}

/// A `java.util.TreeSet` of places, whose order of comparison may change after an insertion without the set being told: so where an
/// entry lands depends on the shape of the red-black tree, which is kept here as Java does.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeSet {
    entries: Vec<Entry>,
    root: Option<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    value: usize,
    left: Option<usize>,
    right: Option<usize>,
    parent: Option<usize>,
    red: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

impl TreeSet {
    /// Adds `value`, unless one that compares as equal is met on the way down.
    pub(crate) fn insert(&mut self, value: usize, compare: impl Fn(usize, usize) -> Ordering) {
        let mut parent = None;
        let mut side = Side::Left;
        let mut next = self.root;
        while let Some(at) = next {
            let Some(entry) = self.entries.get(at) else {
                return;
            };
            side = match compare(value, entry.value) {
                Ordering::Less => Side::Left,
                Ordering::Greater => Side::Right,
                Ordering::Equal => return,
            };
            parent = Some(at);
            next = self.child(at, side);
        }
        let new = self.entries.len();
        self.entries.push(Entry {
            value,
            left: None,
            right: None,
            parent,
            red: true,
        });
        match parent {
            None => self.root = Some(new),
            Some(parent) => self.set_child(parent, side, Some(new)),
        }
        self.balance(new);
    }

    /// The values from left to right.
    pub(crate) fn in_order(&self) -> Vec<usize> {
        let mut values = Vec::with_capacity(self.entries.len());
        let mut above = Vec::new();
        let mut next = self.root;
        loop {
            while let Some(at) = next {
                above.push(at);
                next = self.child(at, Side::Left);
            }
            let Some(entry) = above.pop().and_then(|at| self.entries.get(at)) else {
                return values;
            };
            values.push(entry.value);
            next = entry.right;
        }
    }

    /// Restores the rules of a red-black tree above the new entry `at`.
    fn balance(&mut self, mut at: usize) {
        while let Some(parent) = self.parent(at).filter(|parent| self.is_red(Some(*parent))) {
            let Some(grandparent) = self.parent(parent) else {
                break;
            };
            let side = if self.child(grandparent, Side::Left) == Some(parent) {
                Side::Left
            } else {
                Side::Right
            };
            let uncle = self.child(grandparent, side.other());
            if self.is_red(uncle) {
                self.paint(Some(parent), false);
                self.paint(uncle, false);
                self.paint(Some(grandparent), true);
                at = grandparent;
                continue;
            }
            if self.child(parent, side.other()) == Some(at) {
                at = parent;
                self.rotate(at, side);
            }
            let parent = self.parent(at);
            let grandparent = parent.and_then(|parent| self.parent(parent));
            self.paint(parent, false);
            self.paint(grandparent, true);
            if let Some(grandparent) = grandparent {
                self.rotate(grandparent, side.other());
            }
        }
        self.paint(self.root, false);
    }

    /// Turns the subtree at `at` towards `side`: its child on the other side takes its place.
    fn rotate(&mut self, at: usize, side: Side) {
        let Some(up) = self.child(at, side.other()) else {
            return;
        };
        let inner = self.child(up, side);
        self.set_child(at, side.other(), inner);
        if let Some(inner) = inner.and_then(|inner| self.entries.get_mut(inner)) {
            inner.parent = Some(at);
        }
        let parent = self.parent(at);
        match parent {
            None => self.root = Some(up),
            Some(parent) if self.child(parent, Side::Left) == Some(at) => {
                self.set_child(parent, Side::Left, Some(up))
            }
            Some(parent) => self.set_child(parent, Side::Right, Some(up)),
        }
        self.set_child(up, side, Some(at));
        if let Some(entry) = self.entries.get_mut(up) {
            entry.parent = parent;
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.parent = Some(up);
        }
    }

    fn child(&self, at: usize, side: Side) -> Option<usize> {
        let entry = self.entries.get(at)?;
        match side {
            Side::Left => entry.left,
            Side::Right => entry.right,
        }
    }

    fn set_child(&mut self, at: usize, side: Side, child: Option<usize>) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        match side {
            Side::Left => entry.left = child,
            Side::Right => entry.right = child,
        }
    }

    fn parent(&self, at: usize) -> Option<usize> {
        self.entries.get(at)?.parent
    }

    fn is_red(&self, at: Option<usize>) -> bool {
        at.and_then(|at| self.entries.get(at))
            .is_some_and(|entry| entry.red)
    }

    fn paint(&mut self, at: Option<usize>, red: bool) {
        if let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) {
            entry.red = red;
        }
    }
}
