/* What the two walks over an ensemble of trees share (see _trees.c). */

#ifndef MODELYARD_TREES_H
#define MODELYARD_TREES_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>

#define BLOCK 128 /* rows that walk one tree after the other while it is in the cache */
#define MISSING_LEFT 0x80000000u

typedef struct {
    double threshold;
    int32_t left;
    uint32_t feature; /* the highest bit is MISSING_LEFT */
} Node;

typedef struct Short Short;

typedef struct {
    PyObject_HEAD
    Py_ssize_t nodes, trees, width, outputs;
    int link, single;
    Node *node;
    Short *brief;   /* the nodes in half the room, NULL where they do not fit or the processor cannot use them */
    int32_t *leaf;  /* of each node: the place of its values, in units of outputs */
    int32_t *root, *depth;
    double *value, *base;
} Forest;

static inline void add(const Forest *self, int32_t at, double *sum) {
    const double *value = self->value + (Py_ssize_t)self->leaf[at] * self->outputs;
    for (Py_ssize_t k = 0; k < self->outputs; k++)
        sum[k] += value[k];
}

/* _trees_wide.c */
Short *shortened(const Forest *self);
void walk_wide(const Forest *self, const double *rows, Py_ssize_t count, float *columns, double *sums);

#endif
