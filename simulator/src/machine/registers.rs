//! The registers of a warp: planes of 32 lanes.

use crate::program::{Operation, Plane};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// The predicate that is always true: the guard of what has none. As a destination it is none.
pub const TRUE: u32 = 0;
/// The predicate that is always false: no destination is placed there.
pub const FALSE: u32 = 1;

/// 32 lanes of 32 bits, on their own cache lines.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
struct Line([u32; LANES]);

/// The registers of one warp. Every access is unchecked in a release build: planes and predicates come from a
/// [`Program`](crate::program::Program), whose decoder places them within the file's size.
pub struct File {
    planes: Vec<Line>,
    predicates: Vec<u32>,
}

impl File {
    /// A file of `planes` planes and `predicates` predicates, [`TRUE`] and [`FALSE`] among them.
    pub fn new(planes: u32, predicates: u32) -> File {
        let mut predicates = vec![0; predicates.max(FALSE + 1) as usize];
        predicates[TRUE as usize] = !0;
        File { planes: vec![Line([0; LANES]); planes as usize], predicates }
    }

    /// # Safety
    /// `plane` lies in the file, with the one after it where `T` has 64 bits.
    #[inline(always)]
    pub unsafe fn lanes<T: Copy>(&self, plane: Plane) -> &[T; LANES] {
        debug_assert!((plane as usize) < self.planes.len());
        // SAFETY: the plane is in the file (the caller's promise), and any bits are a value of the integers and floats that
        // are read.
        unsafe { &*self.planes.as_ptr().add(plane as usize).cast() }
    }

    /// # Safety
    /// As [`lanes`](File::lanes).
    #[inline(always)]
    pub unsafe fn lanes_mut<T: Copy>(&mut self, plane: Plane) -> &mut [T; LANES] {
        debug_assert!((plane as usize) < self.planes.len());
        // SAFETY: as in `lanes`; `self` is borrowed mutably.
        unsafe { &mut *self.planes.as_mut_ptr().add(plane as usize).cast() }
    }

    /// # Safety
    /// `index` is a predicate of the file.
    #[inline(always)]
    pub unsafe fn predicate(&self, index: u32) -> u32 {
        debug_assert!((index as usize) < self.predicates.len());
        // SAFETY: the caller's promise.
        unsafe { *self.predicates.get_unchecked(index as usize) }
    }

    /// Writes the active lanes of a predicate; [`TRUE`] is no destination.
    ///
    /// # Safety
    /// `index` is a predicate of the file.
    #[inline(always)]
    pub unsafe fn set_predicate(&mut self, index: u32, value: u32, active: u32) {
        debug_assert!((index as usize) < self.predicates.len());
        if index != TRUE {
            // SAFETY: the caller's promise.
            let old = unsafe { self.predicates.get_unchecked_mut(index as usize) };
            *old = (*old & !active) | (value & active);
        }
    }

    /// # Safety
    /// As [`lanes`](File::lanes), for the type's width.
    #[inline(always)]
    pub unsafe fn store<R: Value>(&mut self, plane: Plane, values: &[R::Stored; LANES], active: u32) {
        // SAFETY: the caller's promise.
        let to = unsafe { self.lanes_mut::<R::Stored>(plane) };
        if active == !0 {
            *to = *values;
        } else {
            for lane in 0..LANES {
                to[lane] = if active >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    /// # Safety
    /// The operation's `a` and `d` are planes of the types' widths.
    #[inline(always)]
    pub unsafe fn unary<A: Value, R: Value>(&mut self, o: &Operation, active: u32, f: impl Fn(A) -> R) {
        // SAFETY: the caller's promise.
        let a = unsafe { self.lanes::<A::Stored>(o.a) };
        let mut result = [R::ZERO; LANES];
        for lane in 0..LANES {
            result[lane] = f(A::load(a[lane])).store();
        }
        // SAFETY: the caller's promise.
        unsafe { self.store::<R>(o.d, &result, active) }
    }

    /// # Safety
    /// The operation's `a`, `b` and `d` are planes of the types' widths.
    #[inline(always)]
    pub unsafe fn binary<A: Value, B: Value, R: Value>(
        &mut self,
        o: &Operation,
        active: u32,
        f: impl Fn(A, B) -> R,
    ) {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (self.lanes::<A::Stored>(o.a), self.lanes::<B::Stored>(o.b)) };
        let mut result = [R::ZERO; LANES];
        for lane in 0..LANES {
            result[lane] = f(A::load(a[lane]), B::load(b[lane])).store();
        }
        // SAFETY: the caller's promise.
        unsafe { self.store::<R>(o.d, &result, active) }
    }

    /// # Safety
    /// The operation's `a`, `b`, `c` and `d` are planes of the types' widths.
    #[inline(always)]
    pub unsafe fn ternary<A: Value, B: Value, C: Value, R: Value>(
        &mut self,
        o: &Operation,
        active: u32,
        f: impl Fn(A, B, C) -> R,
    ) {
        // SAFETY: the caller's promise.
        let (a, b, c) = unsafe {
            (self.lanes::<A::Stored>(o.a), self.lanes::<B::Stored>(o.b), self.lanes::<C::Stored>(o.c))
        };
        let mut result = [R::ZERO; LANES];
        for lane in 0..LANES {
            result[lane] = f(A::load(a[lane]), B::load(b[lane]), C::load(c[lane])).store();
        }
        // SAFETY: the caller's promise.
        unsafe { self.store::<R>(o.d, &result, active) }
    }

    /// `setp`: compares, combines with predicate `c` as `extra` says, writes `d` and the opposite to `d2`.
    ///
    /// # Safety
    /// The operation's `a` and `b` are planes of the type's width; `c`, `d` and `d2` are predicates.
    #[inline(always)]
    pub unsafe fn compare<A: Value>(&mut self, o: &Operation, active: u32, f: impl Fn(A, A) -> bool) {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { (self.lanes::<A::Stored>(o.a), self.lanes::<A::Stored>(o.b)) };
        let mut holds = [0u32; LANES];
        for lane in 0..LANES {
            holds[lane] = f(A::load(a[lane]), A::load(b[lane])) as u32;
        }
        let mut mask = 0;
        for lane in 0..LANES {
            mask |= holds[lane] << lane;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let (first, second) = (self.combine(o, mask), self.combine(o, !mask));
            self.set_predicate(o.d, first, active);
            self.set_predicate(o.d2, second, active);
        }
    }

    /// What `setp` makes of a comparison's result and predicate `c`.
    ///
    /// # Safety
    /// The operation's `c` is a predicate of the file.
    #[inline(always)]
    pub unsafe fn combine(&self, o: &Operation, mask: u32) -> u32 {
        // SAFETY: the caller's promise.
        let with = unsafe { self.predicate(o.c) } ^ if o.extra & NEGATE != 0 { !0 } else { 0 };
        match o.extra & !NEGATE {
            AND => mask & with,
            OR => mask | with,
            _ => mask ^ with,
        }
    }
}

/// How `setp` combines: in [`Operation::extra`].
pub const AND: u32 = 0;
pub const OR: u32 = 1;
pub const XOR: u32 = 2;
/// The predicate that it combines with is negated.
pub const NEGATE: u32 = 4;

/// A type of a register's value, and how it lies in a plane: 32 bits for all narrow types, 64 for the wide. Signed ones are
/// extended by their sign, since `cvt` may write them to a register of 32 bits (PTX ISA 9.4.1).
pub trait Value: Copy {
    type Stored: Copy;
    const ZERO: Self::Stored;
    fn load(stored: Self::Stored) -> Self;
    fn store(self) -> Self::Stored;
}

/// A half as its bits.
#[derive(Clone, Copy)]
pub struct Half(pub u16);

macro_rules! values {
    ($($type:ty: $stored:ty, $load:expr, $store:expr;)*) => {
        $(impl Value for $type {
            type Stored = $stored;
            const ZERO: $stored = 0;
            #[inline(always)]
            fn load(stored: $stored) -> $type {
                let load: fn($stored) -> $type = $load;
                load(stored)
            }
            #[inline(always)]
            fn store(self) -> $stored {
                let store: fn($type) -> $stored = $store;
                store(self)
            }
        })*
    };
}

values! {
    u8: u32, |s| s as u8, |v| v as u32;
    i8: u32, |s| s as i8, |v| v as u32;
    u16: u32, |s| s as u16, |v| v as u32;
    i16: u32, |s| s as i16, |v| v as u32;
    Half: u32, |s| Half(s as u16), |v| v.0 as u32;
    u32: u32, |s| s, |v| v;
    i32: u32, |s| s as i32, |v| v as u32;
    f32: u32, f32::from_bits, f32::to_bits;
    u64: u64, |s| s, |v| v;
    i64: u64, |s| s as i64, |v| v as u64;
    f64: u64, f64::from_bits, f64::to_bits;
}
