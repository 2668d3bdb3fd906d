/* The walk with AVX-512: sixty-four rows at a time go down a tree.

   A node is 8 bytes here: its threshold in single precision, how far on its left child lies, and its feature. A value that
   single precision holds exactly is <= a threshold if and only if it is <= the greatest single below or at it, so that the
   answers are those of _trees.c to the last bit, for rows of such values; others take the other walk. So do rows with
   missing values. A tree's first 32 nodes, five levels or more, stay in registers. */

#include "_trees.h"

#include <math.h>
#include <stdlib.h>

#define FEATURE_BITS 12
#define MOST_FEATURES (1 << FEATURE_BITS)
#define FARTHEST (1 << (32 - FEATURE_BITS))
#define TOP 32 /* nodes in registers */

struct Short {
    float threshold;
    uint32_t next; /* the left child's distance, and in the lowest bits the feature */
};

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define LANES 16
#define GROUPS 4 /* that wait for memory side by side */
#define WIDE __attribute__((target("avx512f")))

static float below(double threshold) {
    float near = (float)threshold;
    return (double)near > threshold ? nextafterf(near, -INFINITY) : near;
}

Short *shortened(const Forest *self) {
    if (!__builtin_cpu_supports("avx512f") || self->width > MOST_FEATURES)
        return NULL;
    Short *brief = calloc((size_t)self->nodes + TOP, sizeof(Short));
    for (Py_ssize_t i = 0; brief != NULL && i < self->nodes; i++) {
        const Node *node = self->node + i;
        Py_ssize_t distance = node->left - i;
        if (distance >= FARTHEST) {
            free(brief);
            return NULL;
        }
        brief[i].threshold = below(node->threshold);
        brief[i].next = (uint32_t)distance << FEATURE_BITS | (node->feature & ~MISSING_LEFT);
    }
    return brief;
}

/* The nodes with these places: from the registers where all lie at the top of the tree. */
#define TAKE(AT, WHICH, CAST)                                                                                  \
    (_mm512_cmplt_epu32_mask(AT, end) == 0xffff ? _mm512_permutex2var_epi32(WHICH##0, AT, WHICH##1)            \
                                                : _mm512_i32gather_epi32(AT, CAST, sizeof(Short)))

WIDE static void walk(const Short *tree, int32_t depth, const float *columns, __m512i *at) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i lane = _mm512_srli_epi32(even, 1), one = _mm512_set1_epi32(1), end = _mm512_set1_epi32(TOP);
    const __m512i odd = _mm512_add_epi32(even, one), features = _mm512_set1_epi32(MOST_FEATURES - 1);
    const __m512i a = _mm512_loadu_si512(tree), b = _mm512_loadu_si512(tree + 8);
    const __m512i c = _mm512_loadu_si512(tree + 16), d = _mm512_loadu_si512(tree + 24);
    const __m512i threshold0 = _mm512_permutex2var_epi32(a, even, b), threshold1 = _mm512_permutex2var_epi32(c, even, d);
    const __m512i next0 = _mm512_permutex2var_epi32(a, odd, b), next1 = _mm512_permutex2var_epi32(c, odd, d);
    for (int g = 0; g < GROUPS; g++)
        at[g] = _mm512_setzero_si512();
    for (; depth > 0; depth--)
        for (int g = 0; g < GROUPS; g++) {
            __m512i next = TAKE(at[g], next, &tree->next);
            __m512 threshold = _mm512_castsi512_ps(TAKE(at[g], threshold, (const int *)&tree->threshold));
            __m512i place = _mm512_mullo_epi32(_mm512_and_si512(next, features), _mm512_set1_epi32(BLOCK));
            __m512 seen = _mm512_i32gather_ps(_mm512_add_epi32(place, lane), columns + LANES * g, sizeof(float));
            __mmask16 right = _mm512_cmp_ps_mask(seen, threshold, _CMP_NLE_UQ);
            __m512i left = _mm512_add_epi32(at[g], _mm512_srli_epi32(next, FEATURE_BITS));
            at[g] = _mm512_mask_add_epi32(left, right, left, one);
        }
}

/* Adds one value to each of up to sixteen sums, in the order in which add() would. */
WIDE static inline void add_each(const Forest *self, __m512i at, Py_ssize_t lanes, double *sums) {
    const __m512i leaf = _mm512_i32gather_epi32(at, self->leaf, sizeof(int32_t));
    const __m256i halves[] = {_mm512_castsi512_si256(leaf), _mm512_extracti64x4_epi64(leaf, 1)};
    for (int h = 0; h < 2 && lanes > 8 * h; h++) {
        const __mmask8 some = lanes >= 8 * h + 8 ? 0xff : (__mmask8)((1 << (lanes - 8 * h)) - 1);
        const __m512d value = _mm512_i32gather_pd(halves[h], self->value, sizeof(double));
        _mm512_mask_storeu_pd(sums + 8 * h, some, _mm512_add_pd(_mm512_maskz_loadu_pd(some, sums + 8 * h), value));
    }
}

/* Adds what the trees say of `count` rows, up to BLOCK; `columns` has room for BLOCK numbers of each feature. */
WIDE void walk_wide(const Forest *self, const double *rows, Py_ssize_t count, float *columns, double *sums) {
    for (Py_ssize_t k = 0; k < self->width; k++)
        for (Py_ssize_t i = 0; i < BLOCK; i++)
            columns[k * BLOCK + i] = i < count ? (float)rows[i * self->width + k] : 0.0f;
    for (Py_ssize_t t = 0; t < self->trees; t++)
        for (Py_ssize_t i = 0; i < count; i += LANES * GROUPS) {
            Py_ssize_t lanes = count - i < LANES * GROUPS ? count - i : LANES * GROUPS;
            __m512i at[GROUPS];
            int32_t place[LANES * GROUPS];
            walk(self->brief + self->root[t], self->depth[t], columns + i, at);
            for (int g = 0; g < GROUPS; g++) {
                at[g] = _mm512_add_epi32(at[g], _mm512_set1_epi32(self->root[t]));
                if (self->outputs == 1)
                    add_each(self, at[g], lanes - LANES * g, sums + i + LANES * g);
                else
                    _mm512_storeu_si512(place + LANES * g, at[g]);
            }
            for (Py_ssize_t j = 0; j < lanes && self->outputs > 1; j++)
                add(self, place[j], sums + (i + j) * self->outputs);
        }
}

#else

Short *shortened(const Forest *self) {
    (void)self;
    return NULL;
}

void walk_wide(const Forest *self, const double *rows, Py_ssize_t count, float *columns, double *sums) {
    (void)self, (void)rows, (void)count, (void)columns, (void)sums;
}

#endif
