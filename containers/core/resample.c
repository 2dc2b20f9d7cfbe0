// Resize one box of an 8-bit RGB photo to a square, as Pillow's Image.resize((size, size), BILINEAR or BICUBIC, box=box) does,
// bit for bit: the same coefficients in 22-bit fixed point, two passes in the same order, rounding to 8 bits between them
// (Pillow 13, src/libImaging/Resample.c). It is faster because it sums several channels at once and copies nothing.
//
// python -m containers.core.build_native builds it.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BITS 22   // of the fraction in a coefficient
#define BLOCK 32  // bytes of an output row that `down` sums at a time

typedef int32_t v4si __attribute__((vector_size(16)));
typedef uint8_t v16qi __attribute__((vector_size(16)));

#if defined(__x86_64__)
#define FAST __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FAST
#endif

// Output pixel i is the sum of weights[i * taps + k] * input[first[i] + k] over 0 <= k < taps. The same number of taps for all,
// some of them 0, spares the processor from guessing.
typedef struct {
  int taps, *first;
  int32_t *weights;
} Axis;

static double bilinear(double x) {
  x = fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static void axis_free(Axis *axis) {
  free(axis->first);
  free(axis->weights);
}

static int axis_make(Axis *axis, int in, float from, float to, int out, int cubic) {
  double scale = (double)(to - from) / out, stretch = scale < 1.0 ? 1.0 : scale;
  double support = (cubic ? 2.0 : 1.0) * stretch, step = 1.0 / stretch;
  int most = (int)(2 * support) + 1;
  axis->taps = most < in ? most : in;
  axis->first = malloc(out * sizeof *axis->first);
  axis->weights = calloc((size_t)out * axis->taps, sizeof *axis->weights);
  double *share = malloc(most * sizeof *share);
  int made = axis->first && axis->weights && share;
  for (int i = 0; made && i < out; i++) {
    double centre = from + (i + 0.5) * scale, sum = 0.0;
    int begin = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    if (begin < 0) begin = 0;
    if (end > in) end = in;
    for (int k = begin; k < end; k++) {
      double x = (k - centre + 0.5) * step;
      sum += share[k - begin] = cubic ? bicubic(x) : bilinear(x);
    }
    int first = begin + axis->taps > in ? in - axis->taps : begin;
    axis->first[i] = first;
    for (int k = begin; k < end; k++) {
      double weight = (sum != 0.0 ? share[k - begin] / sum : share[k - begin]) * (1 << BITS);
      axis->weights[(size_t)i * axis->taps + k - first] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  free(share);
  return made;
}

// One row: a pixel's three channels at a time, and one byte more, which the next pixel overwrites.
FAST static void across(const uint8_t *row, const Axis *axis, int size, uint8_t *out) {
  const int32_t *weight = axis->weights;
  for (int i = 0; i < size; i++, weight += axis->taps, out += 3) {
    const uint8_t *pixel = row + 3 * (size_t)axis->first[i];
    v4si sum = (v4si){0} + (1 << (BITS - 1));
    for (int k = 0; k < axis->taps; k++) {
      v16qi bytes, zero = {0};
      memcpy(&bytes, pixel + 3 * k, sizeof bytes);
      bytes = __builtin_shufflevector(bytes, zero, 0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16);
      sum += (v4si)bytes * weight[k];  // little-endian
    }
    sum >>= BITS;
    sum &= sum >= 0;  // a comparison of vectors is all ones where it holds
    v4si over = sum > 255;
    v16qi bytes = (v16qi)((sum & ~over) | (over & 255));
    bytes = __builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    memcpy(out, &bytes, 4);
  }
}

// `length` bytes of one output row; reads up to BLOCK - 1 bytes more of each input row.
FAST static void down(const uint8_t *rows, int length, const int32_t *weight, int taps, uint8_t *out) {
  for (int x = 0; x < length; x += BLOCK) {
    int32_t sum[BLOCK];
    uint8_t bytes[BLOCK];
    for (int j = 0; j < BLOCK; j++) sum[j] = 1 << (BITS - 1);
    for (int k = 0; k < taps; k++)
      for (int j = 0; j < BLOCK; j++) sum[j] += rows[(size_t)k * length + x + j] * weight[k];
    for (int j = 0; j < BLOCK; j++) {
      int32_t value = sum[j] >> BITS;
      bytes[j] = value < 0 ? 0 : value > 255 ? 255 : value;
    }
    memcpy(out + x, bytes, length - x < BLOCK ? length - x : BLOCK);
  }
}

// Rows first, then columns: what Pillow does for most shapes.
static int across_then_down(const uint8_t *photo, int width, const Axis *h, const Axis *v, int size, uint8_t *out) {
  size_t length = 3 * (size_t)size;
  int top = v->first[0], bottom = v->first[size - 1] + v->taps;
  uint8_t *rows = malloc((bottom - top) * length + BLOCK);
  if (!rows) return -1;
  for (int y = top; y < bottom; y++) across(photo + 3 * (size_t)y * width, h, size, rows + (y - top) * length);
  for (int y = 0; y < size; y++)
    down(rows + (v->first[y] - top) * length, length, v->weights + (size_t)y * v->taps, v->taps, out + y * length);
  free(rows);
  return 0;
}

// Columns first: what Pillow does with tall photos, and rounding makes the order matter.
static int down_then_across(const uint8_t *photo, int width, const Axis *h, const Axis *v, int size, uint8_t *out) {
  size_t length = 3 * (size_t)width;
  uint8_t *row = malloc(length + 3 * (size_t)size + 2 * BLOCK);
  if (!row) return -1;
  uint8_t *pixels = row + length + BLOCK;
  for (int y = 0; y < size; y++) {
    down(photo + v->first[y] * length, length, v->weights + (size_t)y * v->taps, v->taps, row);
    across(row, h, size, pixels);
    memcpy(out + 3 * (size_t)y * size, pixels, 3 * (size_t)size);
  }
  free(row);
  return 0;
}

// photo: height x width x 3 bytes and at least BLOCK readable bytes after them. box: left, top, right, bottom in the photo.
// out: size x size x 3 bytes. Returns 0, or -1 where there is not enough memory.
// The number in its name is that of its arguments: fast_jpeg.py asks for the one it knows.
int kennel_resample_1(const uint8_t *photo, int width, int height, const float *box, int size, int cubic, uint8_t *out) {
  Axis h = {0}, v = {0};
  int done = -1;
  if (axis_make(&h, width, box[0], box[2], size, cubic) && axis_make(&v, height, box[1], box[3], size, cubic)) {
    int tall = height > size && height - size > 2 * (width - size);
    done = (tall ? down_then_across : across_then_down)(photo, width, &h, &v, size, out);
  }
  axis_free(&h);
  axis_free(&v);
  return done;
}
