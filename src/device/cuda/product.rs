//! Products of matrices on a card: `kernels/product.cu`.

use super::card::Shape;
use super::memory::Buffer;

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
}

/// Which tile of C a block of `product_*` makes: `Size` in `kernels/product.cu`. The results' bits are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Size {
    /// 128 x 64
    Wide,
    /// 64 x 32
    Narrow,
}

impl Size {
    fn tile(self) -> (u32, u32) {
        match self {
            Size::Wide => (128, 64),
            Size::Narrow => (64, 32),
        }
    }
}

/// The argument of `product_nt`, `product_nn`, `product_tn` and `product_fold`, and of their namesakes in f16: `Product` in `kernels/product.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Product {
    pub a: u64,
    pub b: u64,
    pub bias: u64,
    pub addend: u64,
    pub c: u64,
    pub index: u64,
    pub scale: u64,
    pub sums: u64,
    pub a_inner: i64,
    pub a_outer: i64,
    pub b_inner: i64,
    pub b_outer: i64,
    pub c_inner: i64,
    pub c_outer: i64,
    pub bias_inner: i64,
    pub bias_outer: i64,
    pub index_inner: i64,
    pub beyond: i64,
    pub run_stride: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a_stride: u32,
    pub b_stride: u32,
    pub c_stride: u32,
    pub split: u32,
    pub inner: u32,
    pub outer: u32,
    pub extent: Extent,
    pub epilogue: Epilogue,
    pub accumulate: u32,
    pub a_shared: u32,
    pub b_shared: u32,
    pub chunk: u32,
    pub size: Size,
    /// In float32 where the rest is in mixed precision; kernels do not look at it.
    pub exact: u32,
    pub padding: u32,
}

const _: () = assert!(size_of::<Product>() == 19 * 8 + 18 * 4);

/// Blocks of a launch from which on wide tiles fill a card: two for each of an RTX 2080 Ti's 68 multiprocessors.
const ENOUGH: u32 = 136;

/// Tile of `window_*`: rows, columns.
const WINDOW: (u32, u32) = (32, 32);

/// Rows of the batch that one block of a weight's gradient sums.
pub const CHUNK: u32 = 512;

impl Product {
    /// One product of `m` x `k` by `k` x `n`, operands of these row strides, nothing else.
    pub fn new(
        (m, n, k): (usize, usize, usize),
        a: (Buffer, usize),
        b: (Buffer, usize),
        c: (Buffer, usize),
    ) -> Product {
        Product {
            a: a.0.address,
            b: b.0.address,
            c: c.0.address,
            bias: 0,
            addend: 0,
            index: 0,
            scale: 0,
            sums: 0,
            a_inner: 0,
            a_outer: 0,
            b_inner: 0,
            b_outer: 0,
            c_inner: 0,
            c_outer: 0,
            bias_inner: 0,
            bias_outer: 0,
            index_inner: 0,
            beyond: 0,
            run_stride: 0,
            m: m as u32,
            n: n as u32,
            k: k as u32,
            a_stride: a.1 as u32,
            b_stride: b.1 as u32,
            c_stride: c.1 as u32,
            split: u32::MAX,
            inner: 1,
            outer: 1,
            extent: Extent::Fixed,
            epilogue: Epilogue::None,
            accumulate: 0,
            a_shared: 0,
            b_shared: 0,
            chunk: 0,
            size: Size::Wide,
            exact: 0,
            padding: 0,
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

    /// Of `product_tn` in chunks: the sums of A's columns `[m]`, which are a bias's gradient, beside C.
    pub fn sums(mut self, sums: Buffer) -> Self {
        self.sums = sums.address;
        self
    }

    /// Multiplied in float32 in mixed precision too.
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

    /// With the tile that suits its shape: a wide one reads operands less often, a narrow one makes blocks of few rows and wastes
    /// less on few columns.
    pub fn sized(mut self, runs: u32) -> Self {
        self.size = Size::Wide;
        let [x, y, z] = self.shape(runs).grid;
        if self.columns() <= Size::Narrow.tile().1 || x * y * z < ENOUGH {
            self.size = Size::Narrow;
        }
        self
    }

    /// Columns of C, with the one that the sums are.
    fn columns(&self) -> u32 {
        self.n + u32::from(self.sums != 0)
    }

    pub fn blocks(self) -> [u32; 2] {
        let (rows, columns) = self.size.tile();
        [self.m.div_ceil(rows) * self.columns().div_ceil(columns), self.inner * self.outer]
    }

    /// Floats that the chunks leave for `product_fold`.
    pub fn partials(&self) -> usize {
        (self.m * self.columns()) as usize * (self.inner * self.outer * self.chunks()) as usize
    }

    /// Parts that k is cut into.
    pub fn chunks(&self) -> u32 {
        if self.chunk == 0 { 1 } else { self.k.div_ceil(self.chunk) }
    }

    pub fn shape(&self, runs: u32) -> Shape {
        let [x, y] = self.blocks();
        Shape { grid: [x, y * self.chunks(), runs], block: 128, shared: 0 }
    }

    pub fn fold_shape(&self, runs: u32) -> Shape {
        Shape {
            grid: [(self.m * self.columns()).div_ceil(256), self.inner * self.outer, runs],
            block: 256,
            shared: 0,
        }
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
    pub run_stride: u64,
    pub width: u32,
    pub a_of: Of,
    pub b_of: Of,
    pub c_of: Of,
    pub accumulate: u32,
    pub longest: u32,
}

const _: () = assert!(size_of::<WindowProduct>() == 6 * 8 + 6 * 4);

impl WindowProduct {
    pub fn shape(&self, samples: u32, runs: u32) -> Shape {
        let (rows, columns) = WINDOW;
        let width = if self.c_of == Of::Pairs { self.longest } else { self.width };
        let tiles = self.longest.div_ceil(rows) * width.div_ceil(columns);
        Shape { grid: [samples, tiles, runs], block: 64, shared: 0 }
    }
}
