//! Integer instructions that are no single operator: PTX ISA 9.7.1, 9.7.7 and 9.7.8.

/// `shr`: a count of the width or more leaves zero, or the sign in every bit.
pub trait ShiftRight {
    fn shift(self, by: u32) -> Self;
}

macro_rules! shifts {
    ($($type:ty),*) => { $(impl ShiftRight for $type {
        #[inline(always)]
        fn shift(self, by: u32) -> $type {
            let last = <$type>::BITS - 1;
            let all = if <$type>::MIN == 0 { 0 } else { self >> last };
            if by <= last { self >> (by & last) } else { all }
        }
    })* };
}
shifts!(u16, i16, u32, i32, u64, i64);

#[inline(always)]
pub fn shift_right<T: ShiftRight>(a: T, by: u32) -> T {
    a.shift(by)
}

/// `div` and `rem`. A division by zero gives what the ISA leaves open: all ones, as cards do, and the dividend.
pub trait Divide {
    fn divide(self, by: Self) -> Self;
    fn remainder(self, by: Self) -> Self;
}

macro_rules! divisions {
    ($($type:ty),*) => { $(impl Divide for $type {
        #[inline(always)]
        fn divide(self, by: $type) -> $type {
            if by == 0 { !0 } else { self.wrapping_div(by) }
        }
        #[inline(always)]
        fn remainder(self, by: $type) -> $type {
            if by == 0 { self } else { self.wrapping_rem(by) }
        }
    })* };
}
divisions!(u16, i16, u32, i32, u64, i64);

#[inline(always)]
pub fn divide<T: Divide>(a: T, b: T) -> T {
    a.divide(b)
}

#[inline(always)]
pub fn remainder<T: Divide>(a: T, b: T) -> T {
    a.remainder(b)
}

/// Any function of three bits, by its table.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        if table >> row & 1 != 0 {
            let pick = |x: u32, bit: u8| if row & bit != 0 { x } else { !x };
            out |= pick(a, 4) & pick(b, 2) & pick(c, 1);
        }
    }
    out
}

/// Modes of `prmt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permute {
    Forward4,
    Backward4,
    Replicate8,
    EdgeClampLeft,
    EdgeClampRight,
    Replicate16,
}

/// Four bytes of the eight of `b:a`, each by a nibble of `c`; a nibble's highest bit spreads the byte's sign.
#[inline(always)]
pub fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let all = (b as u64) << 32 | a as u64;
    let mut out = 0;
    for place in 0..4 {
        let selector = c >> (4 * place) & 0xf;
        let byte = (all >> (8 * (selector & 7))) as u8;
        let byte = if selector & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        out |= (byte as u32) << (8 * place);
    }
    out
}

/// The same with selectors that a mode makes of the lowest two bits of `c`.
#[inline(always)]
pub fn prmt_mode(a: u32, b: u32, c: u32, mode: Permute) -> u32 {
    let n = c & 3;
    let selectors: [u32; 4] = std::array::from_fn(|place| {
        let place = place as u32;
        match mode {
            Permute::Forward4 => n + place,
            Permute::Backward4 => (n + 8 - place) & 7,
            Permute::Replicate8 => n,
            Permute::EdgeClampLeft => place.max(n),
            Permute::EdgeClampRight => place.min(n),
            Permute::Replicate16 => (n & 1) * 2 + (place & 1),
        }
    });
    prmt(a, b, selectors[0] | selectors[1] << 4 | selectors[2] << 8 | selectors[3] << 12)
}

/// `bmsk`: `width` ones from bit `position` on, as far as there are bits. Without `clamp` both count modulo 32.
#[inline(always)]
pub fn bmsk(position: u32, width: u32, clamp: bool) -> u32 {
    let (position, width) = (if clamp { position } else { position & 31 }, field_width(width, clamp));
    let from = |bit: u32| if bit < 32 { !0 << (bit & 31) } else { 0 };
    from(position) & !from(position.saturating_add(width))
}

/// Bits that a field of `bmsk` or `szext` has: 32 at the most, or modulo 32.
#[inline(always)]
pub fn field_width(width: u32, clamp: bool) -> u32 {
    if clamp { width.min(32) } else { width & 31 }
}

macro_rules! extracts {
    ($name:ident, $type:ty, $unsigned:ty) => {
        /// `bfe`: `length` bits from `position`, sign-extended where signed.
        #[inline(always)]
        pub fn $name(a: $type, position: u32, length: u32) -> $type {
            let (position, length) = (position & 0xff, length & 0xff);
            let width = <$type>::BITS;
            if length == 0 {
                return 0;
            }
            // Bits beyond the register are copies of the sign (zero where unsigned).
            let shifted = a.shift(position);
            if length >= width {
                shifted
            } else {
                (((shifted as $unsigned) << (width - length)) as $type) >> (width - length)
            }
        }
    };
}
extracts!(bfe_u32, u32, u32);
extracts!(bfe_u64, u64, u64);
extracts!(bfe_s32, i32, u32);
extracts!(bfe_s64, i64, u64);

/// The low or high 32 bits of the 48-bit product of the low 24 bits.
#[inline(always)]
pub fn mul24_u32(a: u32, b: u32, low: bool) -> u32 {
    let product = (a & 0xff_ffff) as u64 * (b & 0xff_ffff) as u64;
    if low { product as u32 } else { (product >> 16) as u32 }
}

#[inline(always)]
pub fn mul24_s32(a: i32, b: i32, low: bool) -> i32 {
    let product = (a << 8 >> 8) as i64 * (b << 8 >> 8) as i64;
    if low { product as i32 } else { (product >> 16) as i32 }
}

#[inline(always)]
fn byte(x: u32, place: u32, signed: bool) -> i32 {
    let byte = (x >> (8 * place)) as u8;
    if signed { byte as i8 as i32 } else { byte as i32 }
}

/// Four products of bytes, added to `c`.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..4)
        .fold(c, |sum, place| sum.wrapping_add((byte(a, place, a_signed) * byte(b, place, b_signed)) as u32))
}

/// Two products of the halves of `a` with two bytes of `b`, added to `c`.
#[inline(always)]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    (0..2).fold(c, |sum, place| {
        let half = (a >> (16 * place)) as u16;
        let half = if a_signed { half as i16 as i32 } else { half as i32 };
        sum.wrapping_add((half * byte(b, place + 2 * high as u32, b_signed)) as u32)
    })
}
