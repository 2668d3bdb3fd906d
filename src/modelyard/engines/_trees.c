/* An ensemble of decision trees over flat arrays: the whole of a prediction without a call back into Python.

   A node is 16 bytes: a threshold, the place of its left child, and its feature; the right child follows the left one.
   A row goes left where its value is <= the threshold. A leaf is its own left child with a threshold of +infinity, so that
   a walk has a fixed number of steps, the depth of its tree, and no branch to mispredict: sixteen walks go side by side
   while the processor waits for memory. A value that is not a number goes left where the node's flag says so.

   The arrays are checked once, when the ensemble is made: every child lies further on, every feature within the row,
   every leaf within the values. After that no input can lead outside them. */

#include "_trees.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define MAX_WIDTH 65536 /* inputs, and values of a leaf */
#define TIE 1e-6
#define FEW 24 /* rows for which the wide walk, which goes by 64, is not worth it */

enum { IDENTITY, PAIR, LOGISTIC_PAIR, LOGISTIC, SOFTMAX, EXPONENTIAL, LINKS };

static Py_ssize_t columns(const Forest *self) {
    return self->link == PAIR || self->link == LOGISTIC_PAIR ? 2 : self->outputs;
}

static inline int32_t step(const Node *node, int32_t at, const double *row) {
    const Node *here = node + at;
    return here->left + !(row[here->feature & ~MISSING_LEFT] <= here->threshold);
}

static inline int32_t step_missing(const Node *node, int32_t at, const double *row) {
    const Node *here = node + at;
    double seen = row[here->feature & ~MISSING_LEFT];
    int left = seen <= here->threshold || (seen != seen && here->feature & MISSING_LEFT);
    return here->left + !left;
}

/* One row, sixteen trees at a time. The trees are in the order of their depth, so that those of a group end together. */
#define WALK_TREES(STEP)                                              \
    for (Py_ssize_t t = 0; t < self->trees; t += LANES) {             \
        int lanes = self->trees - t < LANES ? (int)(self->trees - t) : LANES; \
        int32_t at[LANES];                                            \
        int32_t deepest = self->depth[t + lanes - 1];                 \
        for (int j = 0; j < LANES; j++)                               \
            at[j] = self->root[t + (j < lanes ? j : 0)];              \
        for (int32_t d = 0; d < deepest; d++)                         \
            for (int j = 0; j < LANES; j++)                           \
                at[j] = STEP(self->node, at[j], row);                 \
        for (int j = 0; j < lanes; j++)                               \
            add(self, at[j], sum);                                    \
    }

/* Sixteen rows, one tree. */
#define WALK_ROWS(STEP)                                               \
    for (int32_t d = 0; d < self->depth[t]; d++)                      \
        for (int j = 0; j < LANES; j++)                               \
            at[j] = STEP(self->node, at[j], row[j]);

enum { MISSING = 1, FINE = 2 };

/* Copies a row, rounded where the model was made of single precision; whether it holds a value that is not a number
   (MISSING), or one that single precision cannot hold (FINE). */
static int load(const Forest *self, const double *from, double *row) {
    int missing = 0, fine = 0;
    for (Py_ssize_t i = 0; i < self->width; i++) {
        double rough = (double)(float)from[i];
        row[i] = self->single ? rough : from[i];
        missing |= row[i] != row[i];
        fine |= row[i] != rough;
    }
    return missing * MISSING | fine * FINE;
}

static double logistic(double x) { return 1.0 / (1.0 + exp(-x)); }

static void finish(const Forest *self, const double *sum, double *out) {
    Py_ssize_t outputs = self->outputs;
    double largest = sum[0], total = 0.0;
    switch (self->link) {
    case PAIR:
        out[0] = 1.0 - sum[0], out[1] = sum[0];
        return;
    case LOGISTIC_PAIR:
        out[0] = logistic(-sum[0]), out[1] = logistic(sum[0]);
        return;
    case SOFTMAX:
        for (Py_ssize_t k = 1; k < outputs; k++)
            largest = sum[k] > largest ? sum[k] : largest;
        for (Py_ssize_t k = 0; k < outputs; k++)
            total += out[k] = exp(sum[k] - largest);
        for (Py_ssize_t k = 0; k < outputs; k++)
            out[k] /= total;
        return;
    }
    for (Py_ssize_t k = 0; k < outputs; k++)
        out[k] = self->link == LOGISTIC ? logistic(sum[k]) : self->link == EXPONENTIAL ? exp(sum[k]) : sum[k];
}

static void one(const Forest *self, const double *from, double *row, double *sum, double *out) {
    memcpy(sum, self->base, self->outputs * sizeof(double));
    if (load(self, from, row) & MISSING) {
        WALK_TREES(step_missing)
    } else {
        WALK_TREES(step)
    }
    finish(self, sum, out);
}

/* `rows` and `sums` have room for the rows and their sums, `wide` for BLOCK rows in single precision. */
static void block(const Forest *self, const double *from, Py_ssize_t count, double *rows, double *sums, float *wide,
                  double *out) {
    int seen = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        seen |= load(self, from + i * self->width, rows + i * self->width);
        memcpy(sums + i * self->outputs, self->base, self->outputs * sizeof(double));
    }
    int walked = self->brief != NULL && count > FEW && !seen;
    if (walked)
        walk_wide(self, rows, count, wide, sums);
    for (Py_ssize_t t = walked ? self->trees : 0; t < self->trees; t++)
        for (Py_ssize_t i = 0; i < count; i += LANES) {
            int lanes = count - i < LANES ? (int)(count - i) : LANES;
            int32_t at[LANES];
            const double *row[LANES];
            for (int j = 0; j < LANES; j++) {
                at[j] = self->root[t];
                row[j] = rows + (i + (j < lanes ? j : 0)) * self->width;
            }
            if (seen & MISSING) {
                WALK_ROWS(step_missing)
            } else {
                WALK_ROWS(step)
            }
            for (int j = 0; j < lanes; j++)
                add(self, at[j], sums + (i + j) * self->outputs);
        }
    for (Py_ssize_t i = 0; i < count; i++)
        finish(self, sums + i * self->outputs, out + i * columns(self));
}

/* The arrays that came from outside: whether nothing in them leads outside them. */
static const char *fault(const Forest *self, Py_ssize_t leaves) {
    if (self->width < 1 || self->width > MAX_WIDTH || self->outputs < 1 || self->outputs > MAX_WIDTH)
        return "a number of inputs or outputs is beyond 1 to 65536";
    if ((self->link == PAIR || self->link == LOGISTIC_PAIR) && self->outputs != 1)
        return "a pair of probabilities needs one output";
    for (Py_ssize_t i = 0; i < self->nodes; i++) {
        const Node *node = self->node + i;
        if ((Py_ssize_t)(node->feature & ~MISSING_LEFT) >= self->width)
            return "a node splits on a feature beyond the inputs";
        if (node->left == i) {
            /* a leaf: no number leads further, and a missing one is led left by the flag */
            if (!(node->threshold == INFINITY && node->feature & MISSING_LEFT))
                return "a leaf could be left";
            if (self->leaf[i] < 0 || self->leaf[i] >= leaves)
                return "a leaf has no values";
        } else if (node->left < i || (Py_ssize_t)node->left + 1 >= self->nodes) {
            return "a child does not lie further on";
        } else if (node->threshold != node->threshold) {
            return "a threshold is not a number";
        }
    }
    for (Py_ssize_t t = 0; t < self->trees; t++) {
        if (self->root[t] < 0 || self->root[t] >= self->nodes)
            return "a root is beyond the nodes";
        if (self->depth[t] < 0 || self->depth[t] > self->nodes || (t && self->depth[t] < self->depth[t - 1]))
            return "the trees are not in the order of their depth";
    }
    return NULL;
}

/* An inner node where a walk ends has no values: every walk of `depth` steps from a root must end in a leaf. Since each
   child lies further on, one pass over the nodes finds the longest way to each. */
static const char *shallow(const Forest *self) {
    int32_t *left_over = malloc(sizeof(int32_t) * (size_t)(self->nodes ? self->nodes : 1));
    const char *found = NULL;
    if (left_over == NULL)
        return "there is not enough memory";
    for (Py_ssize_t i = 0; i < self->nodes; i++)
        left_over[i] = INT32_MAX; /* steps that are left when a walk comes here; the least over all walks */
    for (Py_ssize_t t = 0; t < self->trees; t++)
        if (self->depth[t] < left_over[self->root[t]])
            left_over[self->root[t]] = self->depth[t];
    for (Py_ssize_t i = 0; i < self->nodes && found == NULL; i++) {
        int32_t left = self->node[i].left;
        if (left == i || left_over[i] == INT32_MAX)
            continue;
        if (left_over[i] == 0) {
            found = "a tree is deeper than it says";
            break;
        }
        for (int32_t child = left; child <= left + 1; child++)
            if (left_over[i] - 1 < left_over[child])
                left_over[child] = left_over[i] - 1;
    }
    free(left_over);
    return found;
}

/* A copy of a contiguous buffer of whole items; NULL with an error set. */
static void *copied(PyObject *source, const char *name, size_t item, Py_ssize_t *count) {
    Py_buffer view;
    void *copy = NULL;
    if (PyObject_GetBuffer(source, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (view.len % (Py_ssize_t)item || (*count >= 0 && view.len / (Py_ssize_t)item != *count)) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, which do not fit the other arrays", name, view.len);
    } else if ((copy = malloc(view.len ? (size_t)view.len : 1)) == NULL) {
        PyErr_NoMemory();
    } else {
        memcpy(copy, view.buf, (size_t)view.len);
        *count = view.len / (Py_ssize_t)item;
    }
    PyBuffer_Release(&view);
    return copy;
}

static void forest_free(Forest *self) {
    free(self->node), free(self->brief), free(self->leaf), free(self->root), free(self->depth), free(self->value), free(self->base);
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *forest_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"nodes", "leaves", "roots", "depths", "values", "base", "width", "link", "single", NULL};
    PyObject *nodes, *leaves, *roots, *depths, *values, *base;
    Py_ssize_t width, trees = -1, nodes_count = -1, outputs = -1, values_count = -1;
    int link, single;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOOOOnip:Forest", names, &nodes, &leaves, &roots, &depths, &values,
                                     &base, &width, &link, &single))
        return NULL;
    if (link < 0 || link >= LINKS) {
        PyErr_Format(PyExc_ValueError, "there is no link %d", link);
        return NULL;
    }
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Forest *self = (Forest *)make(type, 0);
    if (self == NULL)
        return NULL;
    self->width = width, self->link = link, self->single = single;
    if ((self->node = copied(nodes, "nodes", sizeof(Node), &nodes_count)) == NULL ||
        (self->leaf = copied(leaves, "leaves", sizeof(int32_t), &nodes_count)) == NULL ||
        (self->root = copied(roots, "roots", sizeof(int32_t), &trees)) == NULL ||
        (self->depth = copied(depths, "depths", sizeof(int32_t), &trees)) == NULL ||
        (self->base = copied(base, "base", sizeof(double), &outputs)) == NULL ||
        (self->value = copied(values, "values", sizeof(double), &values_count)) == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->nodes = nodes_count, self->trees = trees, self->outputs = outputs;
    const char *what = outputs < 1                  ? "there is no output"
                       : values_count % outputs     ? "the values do not fit the outputs"
                       : nodes_count > INT32_MAX - 1 ? "there are too many nodes"
                                                    : fault(self, values_count / outputs);
    if (what == NULL)
        what = shallow(self);
    if (what != NULL) {
        PyErr_SetString(PyExc_ValueError, what);
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->brief = shortened(self);
    return (PyObject *)self;
}

/* The column of the greatest probability, the first of those within TIE of it (engines/answers.py: likeliest). */
static void choose(const Forest *self, const double *out, Py_ssize_t count, int64_t *likely) {
    Py_ssize_t wide = columns(self);
    for (Py_ssize_t i = 0; i < count; i++, out += wide) {
        double most = out[0];
        for (Py_ssize_t k = 1; k < wide; k++)
            most = out[k] > most ? out[k] : most;
        Py_ssize_t first = 0;
        while (first < wide - 1 && !(out[first] >= most - TIE))
            first++;
        likely[i] = first;
    }
}

/* A buffer of contiguous float64 (or int64) numbers; -1 with BufferError set for any other. */
static int numbers(PyObject *source, Py_buffer *view, int flags, const char *formats) {
    if (PyObject_GetBuffer(source, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0)
        return -1;
    if (view->itemsize == 8 && view->format != NULL && strlen(view->format) == 1 && strchr(formats, view->format[0]))
        return 0;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_BufferError, "the numbers are of another type");
    return -1;
}

/* predict(batch, out, likely): batch holds float64 rows of `width`, out takes float64 rows of `columns`, likely an int64 for
   each row: the place of its greatest number. */
static PyObject *forest_predict(Forest *self, PyObject *args) {
    PyObject *batch, *target, *choice;
    Py_buffer from, to, chosen;
    if (!PyArg_ParseTuple(args, "OOO:predict", &batch, &target, &choice))
        return NULL;
    if (numbers(batch, &from, 0, "d") < 0)
        return NULL;
    if (numbers(target, &to, PyBUF_WRITABLE, "d") < 0) {
        PyBuffer_Release(&from);
        return NULL;
    }
    if (numbers(choice, &chosen, PyBUF_WRITABLE, "lq") < 0) {
        PyBuffer_Release(&from);
        PyBuffer_Release(&to);
        return NULL;
    }
    Py_ssize_t count = from.len / (Py_ssize_t)sizeof(double) / self->width;
    int fits = from.len == count * self->width * (Py_ssize_t)sizeof(double) &&
               to.len == count * columns(self) * (Py_ssize_t)sizeof(double) &&
               chosen.len == count * (Py_ssize_t)sizeof(int64_t);
    Py_ssize_t most = count < BLOCK ? count + !count : BLOCK;
    size_t singles = self->brief != NULL && count > FEW ? sizeof(float) * (size_t)self->width * BLOCK : 0;
    double *room = NULL;
    if (fits && (room = malloc(sizeof(double) * (size_t)((self->width + self->outputs) * most) + singles)) != NULL) {
        const double *rows = from.buf;
        double *out = to.buf, *sums = room + most * self->width;
        float *wide = (float *)(sums + most * self->outputs);
        int64_t *likely = chosen.buf;
        if (count == 1) { /* not worth giving up the interpreter for */
            one(self, rows, room, sums, out);
            choose(self, out, 1, likely);
        } else {
            Py_BEGIN_ALLOW_THREADS
            for (Py_ssize_t i = 0; i < count; i += BLOCK)
                block(self, rows + i * self->width, count - i < BLOCK ? count - i : BLOCK, room, sums, wide,
                      out + i * columns(self));
            choose(self, out, count, likely);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    PyBuffer_Release(&chosen);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the batch or the place for its answers has another size");
        return NULL;
    }
    if (room == NULL)
        return PyErr_NoMemory();
    free(room);
    Py_RETURN_NONE;
}

static PyObject *forest_columns(Forest *self, void *closure) {
    (void)closure;
    return PyLong_FromSsize_t(columns(self));
}

static PyMethodDef methods[] = {
    {"predict", (PyCFunction)forest_predict, METH_VARARGS, "Write the answers to float64 rows into float64 rows."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef members[] = {
    {"columns", (getter)forest_columns, NULL, "How many numbers an answer has.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, forest_new},   {Py_tp_dealloc, forest_free},
    {Py_tp_methods, methods},  {Py_tp_getset, members},
    {Py_tp_doc, "An ensemble of trees over flat arrays, checked when it is made."}, {0, NULL},
};

static PyType_Spec spec = {"modelyard.engines._trees.Forest", sizeof(Forest), 0, Py_TPFLAGS_DEFAULT, slots};

static int fill(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    return type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_trees", "Trees over flat arrays.", 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__trees(void) { return PyModuleDef_Init(&module); }
