//! Products of matrices on a card: `kernels/product.cu`.

use super::card::Shape;
use super::memory::{Buffer, Element};
use crate::device::work::{Unit, Work};

/// Which rows a product runs over: what `Extent` in `kernels/product.cu` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Extent {
    /// As many as stated.
    Fixed,
    Rows,
    Samples,
    Distinct,
    /// Role A's rows in the first outer product, role B's in the second.
    Roles,
}

/// What is done to an element of the result before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Epilogue {
    None,
    Sigmoid,
    /// `tanh(sum + addend)`
    TanhOfSum,
    /// Over [`Extent::Rows`]: dropout's mask.
    Dropout,
}

/// Which tile of C a block of `product_*` makes: `Size` in `kernels/product.cu`. The results' bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Size {
    /// 128 x 64, of all but `product_tn` and the `_large` ones
    Tall,
    /// 64 x 128, of `product_tn_f16` and `product_tn_rounded` alone
    Broad,
    /// 64 x 32, of the same
    Narrow,
    /// 64 x 64, of `product_tn` alone
    Square,
    /// 32 x 32, of `product_tn` alone
    Small,
    /// 128 x 128, of `product_tn_f16_large` alone
    Large,
    /// 128 x 128, of `product_nt_f16_large` and `product_nn_f16_large` alone
    LargeRows,
}

impl Size {
    fn tile(self) -> (u32, u32) {
        match self {
            Size::Tall => (128, 64),
            Size::Broad => (64, 128),
            Size::Narrow => (64, 32),
            Size::Square => (64, 64),
            Size::Small => (32, 32),
            Size::Large | Size::LargeRows => (128, 128),
        }
    }

    /// Of a block.
    fn threads(self) -> u32 {
        match self {
            Size::Square | Size::Small => 64,
            Size::LargeRows => 256,
            _ => 128,
        }
    }
}

/// What a product has of its own where another one has the same A: `Side` in `kernels/product.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Side {
    pub b: u64,
    pub c: u64,
    pub index: u64,
    pub sums: u64,
    pub b_inner: i64,
    pub b_outer: i64,
    pub c_inner: i64,
    pub c_outer: i64,
    pub bias_inner: i64,
    pub bias_outer: i64,
    pub index_inner: i64,
    pub beyond: i64,
    pub beyond_inner: i64,
    pub n: u32,
    pub b_stride: u32,
    pub c_stride: u32,
    pub split: u32,
}

impl Side {
    /// Columns of C, with the one that the sums are.
    fn columns(&self) -> u32 {
        self.n + u32::from(self.sums != 0)
    }
}

/// The argument of `product_nt`, `product_nn`, `product_tn` and of their namesakes on tensor cores: `Product` in `kernels/product.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Product {
    pub a: u64,
    pub bias: u64,
    pub addend: u64,
    pub scale: u64,
    pub workspace: u64,
    pub arrivals: u64,
    pub a_inner: i64,
    pub a_outer: i64,
    pub target: u64,
    pub offset: u64,
    pub owner: u64,
    pub mask: u64,
    pub run_stride: u64,
    pub side: Side,
    /// Of a second product in the same launch (`product_tn`); without columns there is none.
    pub second: Side,
    pub m: u32,
    pub k: u32,
    pub a_stride: u32,
    pub inner: u32,
    pub outer: u32,
    pub extent: Extent,
    pub epilogue: Epilogue,
    pub accumulate: u32,
    pub chunks: u32,
    pub size: Size,
    /// Whether it is multiplied in float32, and what A and B have: kernels do not look at them, a launch does.
    pub exact: u32,
    pub element: Element,
}

const _: () = assert!(size_of::<Side>() == 13 * 8 + 4 * 4);
const _: () = assert!(size_of::<Product>() == 13 * 8 + 2 * size_of::<Side>() + 12 * 4);

/// Blocks of a launch from which on large tiles fill a card: two for each of an RTX 2080 Ti's 68 multiprocessors.
const ENOUGH: u32 = 136;

/// How the chunks of a weight's gradient fill the same card.
struct Fill {
    /// Blocks that it has at once.
    places: u32,
    /// Of these, in thousandths, that are enough if one round of blocks takes them.
    enough: u64,
    /// Chunks that it may be more than those of one round.
    chunks_more: u32,
}

/// In f16 and rounded to it what chunks leave for one another takes about as long as the multiplications, so that few are better. In
/// float32 it takes little.
const FILL: Fill = Fill { places: 3 * 68, enough: 750, chunks_more: 6 };
const LARGE_FILL: Fill = Fill { places: 2 * 68, ..FILL };
const SQUARE_FILL: Fill = Fill { places: 6 * 68, enough: 950, chunks_more: 16 };

/// A sum has large tiles if there are so many of them, which take few chunks to fill the card. In a launch so many blocks are enough.
const LARGE_TILES: u32 = 34;
const LARGE_BLOCKS: u32 = 100;

/// Blocks of a product over the batch's rows from which on it has large tiles: twice as many as the card has at once. Where roles share the
/// rows out each of them counts with all.
const LARGE_ROWS: u32 = 2 * LARGE_FILL.places;

/// Tile of `window_*`: rows, columns.
const WINDOW: (u32, u32) = (32, 32);

/// Rows of the batch that one block of a weight's gradient sums at least, where there are as many.
const CHUNK: u32 = 512;

/// But so many chunks there are even where they then have fewer rows, down to `SHORT`: a launch of few rows waits for its longest block.
const FEW: u32 = 4;
const SHORT: u32 = 128;

impl Product {
    /// One product of `m` x `k` by `k` x `n`, operands of these row strides and one kind of elements, nothing else.
    pub fn new(
        (m, n, k): (usize, usize, usize),
        a: (Buffer, usize),
        b: (Buffer, usize),
        c: (Buffer, usize),
    ) -> Product {
        assert_eq!(a.0.element, b.0.element, "operands of a product");
        let side = Side {
            b: b.0.address,
            c: c.0.address,
            n: n as u32,
            b_stride: b.1 as u32,
            c_stride: c.1 as u32,
            split: u32::MAX,
            ..Side::default()
        };
        Product {
            a: a.0.address,
            bias: 0,
            addend: 0,
            scale: 0,
            workspace: 0,
            arrivals: 0,
            a_inner: 0,
            a_outer: 0,
            target: 0,
            offset: 0,
            owner: 0,
            mask: 0,
            run_stride: 0,
            side,
            second: Side::default(),
            m: m as u32,
            k: k as u32,
            a_stride: a.1 as u32,
            inner: 1,
            outer: 1,
            extent: Extent::Fixed,
            epilogue: Epilogue::None,
            accumulate: 0,
            chunks: 0,
            size: Size::Tall,
            exact: 0,
            element: a.0.element,
        }
    }

    pub fn extent(mut self, extent: Extent) -> Self {
        self.extent = extent;
        if extent == Extent::Roles {
            self.outer = 2;
        }
        self
    }

    pub fn bias(mut self, bias: Buffer) -> Self {
        self.bias = bias.address;
        self
    }

    /// Of `product_tn`: the sums of A's columns `[m]`, which are a bias's gradient, beside C.
    pub fn sums(mut self, sums: Buffer) -> Self {
        self.side.sums = sums.address;
        self
    }

    /// Of `product_tn`: with a second product of the same A, of which it may take other columns, and of the same m and k. A is read from
    /// memory once for both.
    pub fn beside(mut self, other: Product) -> Self {
        assert_eq!(
            (self.a, self.a_stride, self.a_inner, self.a_outer, self.m, self.k, self.inner, self.outer),
            (
                other.a,
                other.a_stride,
                other.a_inner,
                other.a_outer,
                other.m,
                other.k,
                other.inner,
                other.outer
            ),
            "products beside each other"
        );
        assert!(self.extent == other.extent && self.scale == 0 && other.scale == 0 && self.side.beyond == 0);
        assert_eq!((self.element, self.exact), (other.element, other.exact), "products beside each other");
        self.second = other.side;
        self
    }

    /// Multiplied in float32, in mixed precision too. In float32 all products are; it is said before [`Product::chunked`].
    pub fn exact(mut self) -> Self {
        self.exact = 1;
        self
    }

    pub fn accumulate(mut self) -> Self {
        self.accumulate = 1;
        self
    }

    pub fn epilogue(mut self, epilogue: Epilogue) -> Self {
        self.epilogue = epilogue;
        self
    }

    /// Of a sum over the batch's rows: cut into as many chunks as fill a card once, at most, or, where that leaves much of it empty, into
    /// more rounds of them, that leave a twentieth, or else the least. Neither the runs nor the card nor the room for a batch change
    /// them, so that a run has the same bits wherever it is made.
    pub fn chunked(mut self) -> Self {
        let wide = self.wide(true);
        let (tiles, fill) = if self.has_large_tiles() {
            (self.tiles(Size::Large), LARGE_FILL)
        } else if wide == Size::Square {
            (self.tiles(wide), SQUARE_FILL)
        } else {
            (self.tiles(wide), FILL)
        };
        let once = (fill.places / tiles).max(1);
        // Of all places of the rounds that it takes, those that have a block, in thousandths.
        let filled = |chunks: u32| {
            let blocks = u64::from(tiles) * u64::from(chunks);
            1000 * blocks / blocks.next_multiple_of(fill.places.into())
        };
        let mut rounds = once..once + fill.chunks_more;
        self.chunks = if filled(once) >= fill.enough {
            once
        } else {
            let best = rounds.clone().rev().max_by_key(|chunks| filled(*chunks));
            rounds.find(|chunks| filled(*chunks) >= 950).or(best).unwrap_or(once)
        };
        self
    }

    /// Of a sum: whether large tiles suit it. None of them stands over by half its rows, or has as few columns as a tall one.
    fn has_large_tiles(&self) -> bool {
        let sides = [self.side.columns(), self.second.columns()];
        self.exact == 0
            && self.element == Element::Half
            && self.m.next_multiple_of(128) - self.m < 64
            && sides.into_iter().all(|columns| columns == 0 || columns > 64)
            && self.tiles(Size::Large) >= LARGE_TILES
    }

    /// Tiles of all products side by side.
    fn tiles(&self, size: Size) -> u32 {
        let [x, y] = Product { size, ..*self }.blocks();
        (x * y).max(1)
    }

    /// Chunks of as many rows as there is room for: no batch has more. `chunk_of` in `kernels/product.cu` has the same.
    fn cut(&self) -> u32 {
        self.chunks.min(self.k.div_ceil(CHUNK).max(FEW.min(self.k / SHORT)).max(1))
    }

    /// The wide tile, of two the one of which less stands over at C's edges. `is_tn`: whether it is one of `product_tn`.
    fn wide(&self, is_tn: bool) -> Size {
        if is_tn && self.exact != 0 {
            return Size::Square;
        }
        let area = |size: Size| {
            let (rows, columns) = size.tile();
            let all = self.side.columns().next_multiple_of(columns)
                + self.second.columns().next_multiple_of(columns);
            u64::from(self.m.next_multiple_of(rows)) * u64::from(all)
        };
        if is_tn && area(Size::Broad) < area(Size::Tall) { Size::Broad } else { Size::Tall }
    }

    /// With the tile that suits its shape: a large one reads operands less often, a narrow one makes blocks of few rows and wastes
    /// less on few columns.
    pub fn sized(mut self, runs: u32, is_tn: bool) -> Self {
        let blocks = |size| Product { size, ..self }.shape(runs).grid.iter().product::<u32>();
        let wide = self.wide(is_tn);
        let narrow = if wide == Size::Square { Size::Small } else { Size::Narrow };
        let has_large_rows =
            !is_tn && self.exact == 0 && self.element == Element::Half && self.side.columns() > 64;
        self.size = if self.chunks > 0 && self.has_large_tiles() && blocks(Size::Large) >= LARGE_BLOCKS {
            Size::Large
        } else if has_large_rows && blocks(Size::LargeRows) >= LARGE_ROWS {
            Size::LargeRows
        } else if self.side.columns() <= narrow.tile().1 || blocks(wide) < ENOUGH {
            narrow
        } else {
            wide
        };
        self
    }

    pub fn blocks(self) -> [u32; 2] {
        let (rows, columns) = self.size.tile();
        let across = self.side.columns().div_ceil(columns) + self.second.columns().div_ceil(columns);
        [self.m.div_ceil(rows) * across, self.inner * self.outer]
    }

    /// Tiles of all products, and the words that their chunks leave in the workspace, whichever tile it is made with.
    pub fn left(&self) -> (usize, usize) {
        let sizes: &[Size] = if self.exact != 0 {
            &[Size::Square, Size::Small]
        } else {
            &[Size::Tall, Size::Broad, Size::Narrow, Size::Large]
        };
        sizes.iter().fold((0, 0), |most, &size| {
            let ([x, y], (rows, columns)) = (Product { size, ..*self }.blocks(), size.tile());
            let tiles = (x * y) as usize;
            (tiles.max(most.0), (tiles * (self.cut() * rows * columns) as usize).max(most.1))
        })
    }

    pub fn shape(&self, runs: u32) -> Shape {
        let [x, y] = self.blocks();
        Shape { grid: [x, y * self.cut().max(1), runs], block: self.size.threads(), shared: 0 }
    }

    /// The least that the product does where its extent has `rows`. C is of the operands' elements, a sum over the rows float32.
    pub fn work(&self, rows: Option<usize>, unit: Unit) -> Work {
        let element = self.element.bytes();
        // In chunks it is k that runs over the rows; the outer products share the rows out, and each has a C.
        let over_k = self.chunks > 0;
        let outer = if rows.is_some() { 1 } else { self.outer as usize };
        let m = if over_k { self.m as usize } else { rows.unwrap_or(self.m as usize) };
        let k = if over_k { rows.unwrap_or(self.k as usize) } else { self.k as usize };
        let (n, inner) = (self.side.n as usize, self.inner as usize);
        // Operands that the products side by side have in common are read once.
        let apart = |distance: i64| if distance == 0 { 1 } else { inner };
        let weights = if over_k { 1 } else { self.outer as usize };
        let second = self.second.n as usize;
        // Of A a second product takes what lies behind its split elsewhere.
        let more_a = if second > 0 && self.second.beyond != 0 { m - self.second.split as usize } else { 0 };
        let a = (m + more_a) * k * apart(self.a_inner) * outer;
        let b = k * (n * apart(self.side.b_inner) + second * apart(self.second.b_inner)) * weights;
        let n = n + second;
        let c = m * n * inner * if over_k { self.outer as usize } else { outer };
        let moved = if over_k {
            (a + b) * element + 2 * c * Element::Word.bytes()
        } else {
            let touched = 1 + usize::from(self.accumulate != 0) + usize::from(self.addend != 0);
            (a + b + c * touched) * element
        };
        Work::moving(moved).flops(2.0 * m as f64 * n as f64 * k as f64 * (inner * outer) as f64, unit)
    }
}

/// What an operand of a window's product is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Of {
    Rows,
    Pairs,
}

/// The argument of `window_nt`, `window_nn` and `window_tn`, and of their namesakes in f16: `WindowProduct` in `kernels/product.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct WindowProduct {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub offset: u64,
    pub pairs: u64,
    /// Elements from `a` and `b` to a second product's operands, which is added to the first one (`window_tn`); 0: there is none.
    pub a_second: i64,
    pub b_second: i64,
    pub run_stride: u64,
    pub width: u32,
    pub a_of: Of,
    pub b_of: Of,
    pub c_of: Of,
    pub accumulate: u32,
    pub longest: u32,
}

const _: () = assert!(size_of::<WindowProduct>() == 8 * 8 + 6 * 4);

impl WindowProduct {
    /// The least that it does for windows of so many rows and pairs in all, whose elements are of `element` bytes.
    pub fn work(&self, rows: usize, pairs: usize, element: usize, unit: Unit) -> Work {
        let width = self.width as usize;
        let of = |operand: Of| if operand == Of::Pairs { pairs } else { rows * width };
        let products = if self.a_second == 0 { 1 } else { 2 };
        let operands = products * (of(self.a_of) + of(self.b_of));
        let moved = operands + of(self.c_of) * (1 + self.accumulate as usize);
        Work::moving(moved * element).flops((2 * products * pairs * width) as f64, unit)
    }

    pub fn shape(&self, samples: u32, runs: u32) -> Shape {
        let (rows, columns) = WINDOW;
        let width = if self.c_of == Of::Pairs { self.longest } else { self.width };
        let tiles = self.longest.div_ceil(rows) * width.div_ceil(columns);
        Shape { grid: [samples, tiles, runs], block: 64, shared: 0 }
    }
}
