//! The memory of a cache: how slots lie in it (docs/bundle.md), and how it grows.

/// Slots of the kernels that are made and copied together.
pub const TILE: usize = 16;

/// What decides how slots lie. `kernels`: slots are theirs, int8 codes and a scale in an order of
/// their own.
#[derive(Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub size: usize,
    pub kernels: bool,
}

impl Shape {
    /// Rows of all slots one after the other, and words of four bytes that a slot takes in one.
    fn layout(&self, keys: bool) -> (usize, usize) {
        match (self.kernels, keys) {
            (true, _) => (self.heads, self.size / 4 + 1),
            (false, true) => (self.heads, self.size),
            (false, false) => (self.heads * self.size, 1),
        }
    }

    /// Of the tensor: keys are rows of channels and values are columns, in float32; of the kernels
    /// both are rows of bytes.
    pub fn tensor(&self, keys: bool, capacity: usize) -> [i64; 4] {
        let (heads, size, slots) = (self.heads as i64, self.size as i64, capacity as i64);
        match (self.kernels, keys) {
            (true, _) => [1, heads, slots, size + 4],
            (false, true) => [1, heads, slots, size],
            (false, false) => [1, heads, size, slots],
        }
    }

    /// So many slots, rounded up to what the kernels make and copy together.
    pub fn tiled(&self, slots: usize) -> usize {
        slots.next_multiple_of(if self.kernels { TILE } else { 1 })
    }
}

/// One tensor of the cache, in words of four bytes, which numbers are aligned in.
pub struct Buffer {
    pub past: String,
    pub present: String,
    pub keys: bool,
    pub words: Vec<u32>,
}

impl Buffer {
    /// Those of a fresh cache.
    pub fn all(layers: usize, shape: Shape, capacity: usize) -> Vec<Buffer> {
        let names = (0..layers).flat_map(|layer| [(layer, true), (layer, false)]);
        let made = names.map(|(layer, keys)| {
            let name = format!("{layer}.{}", if keys { "key" } else { "value" });
            let (rows, slot) = shape.layout(keys);
            Buffer {
                past: format!("past_key_values.{name}"),
                present: format!("present.{name}"),
                keys,
                words: vec![0; rows * capacity * slot],
            }
        });
        made.collect()
    }

    /// More room: as long as nothing has wrapped, a slot keeps its number.
    pub fn grow(&mut self, shape: Shape, before: usize, after: usize) {
        let (rows, slot) = shape.layout(self.keys);
        let mut larger = vec![0; rows * after * slot];
        let rows = larger
            .chunks_exact_mut(after * slot)
            .zip(self.words.chunks_exact(before * slot));
        rows.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
        self.words = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_place_when_a_cache_grows() {
        for (kernels, keys) in [(false, true), (false, false), (true, true), (true, false)] {
            let shape = Shape {
                heads: 2,
                size: 16,
                kernels,
            };
            let (rows, slot) = shape.layout(keys);
            let mut buffer = Buffer::all(1, shape, 16).swap_remove(usize::from(!keys));
            buffer
                .words
                .iter_mut()
                .enumerate()
                .for_each(|(at, word)| *word = at as u32);
            buffer.grow(shape, 16, 48);
            assert_eq!(buffer.words.len(), rows * 48 * slot);
            for (row, words) in buffer.words.chunks_exact(48 * slot).enumerate() {
                let first = row * 16 * slot;
                let expected: Vec<u32> = (first..first + 16 * slot).map(|at| at as u32).collect();
                assert_eq!(&words[..16 * slot], expected, "{kernels} {keys} {row}");
            }
        }
    }

    #[test]
    fn the_words_are_those_of_the_tensor() {
        let shape = |kernels| Shape {
            heads: 2,
            size: 64,
            kernels,
        };
        for keys in [true, false] {
            let elements =
                |kernels| shape(kernels).tensor(keys, 32).iter().product::<i64>() as usize;
            let words = |kernels| {
                Buffer::all(1, shape(kernels), 32)[usize::from(!keys)]
                    .words
                    .len()
            };
            assert_eq!(
                (words(false), 4 * words(true)),
                (elements(false), elements(true))
            );
        }
        assert_eq!(
            (
                shape(true).tiled(767),
                shape(true).tiled(768),
                shape(false).tiled(767)
            ),
            (768, 768, 767)
        );
    }
}
