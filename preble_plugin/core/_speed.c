/* What each placement does for each token and each node, compiled. Optional: every
 * function here has a twin in Python that does the same (named beside it), by which
 * the package goes where it was built without a compiler. The same tests run on both.
 *
 * keys(tokens, factors, block_size)       block_keys.numpy_keys
 * walk(root, keys, columns)               walk.plain_walk
 * expect(path, column, first_use, begun, recent)
 *                                         walk.plain_expect
 *
 * Nodes are read and written by the offsets of their slots, which `bind(Node)` looks
 * up once; masks of columns are read up to bit 63, and the callers go by Python
 * where there are more.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

/* -- block keys -----------------------------------------------------------------
 *
 * `tokens` is a list or tuple of ints, or a contiguous buffer of 32- or 64-bit
 * integers; `factors` holds one 64-bit factor for each token of a block. A rest of
 * less than a block is left out. Raises OverflowError for a token that is not in
 * [0, 2^32), TypeError for one that is no integer.
 */

/* The value of an int of one digit, which a token id below 2^30 is; else -1. */
static inline int64_t
small_int(PyObject *item)
{
    if (!PyLong_CheckExact(item)) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    return PyUnstable_Long_IsCompact((PyLongObject *)item)
               ? (int64_t)PyUnstable_Long_CompactValue((PyLongObject *)item)
               : -1;
#else
    Py_ssize_t digits = Py_SIZE(item);
    return digits == 1 ? (int64_t)((PyLongObject *)item)->ob_digit[0] : digits == 0 ? 0 : -1;
#endif
}

/* A token id, or UINT64_MAX with an exception set. */
static uint64_t
token_id(PyObject *item)
{
    if (!PyLong_Check(item)) {
        PyObject *index = PyNumber_Index(item);
        if (index == NULL) {
            return UINT64_MAX;
        }
        uint64_t value = token_id(index);
        Py_DECREF(index);
        return value;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (overflow || value < 0 || value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a token id is negative or over 32 bits");
        return UINT64_MAX;
    }
    return (uint64_t)value;
}

static int
hash_items(PyObject *sequence, const uint64_t *factors, Py_ssize_t size, Py_ssize_t blocks,
           uint64_t *keys)
{
    for (Py_ssize_t block = 0; block < blocks; block++) {
        uint64_t sum = 0;
        for (Py_ssize_t i = 0; i < size; i++) {
            /* The size is read anew: an item's __index__ may run any code. */
            Py_ssize_t place = block * size + i;
            if (place >= PySequence_Fast_GET_SIZE(sequence)) {
                PyErr_SetString(PyExc_RuntimeError, "tokens changed while they were read");
                return -1;
            }
            PyObject *item = PySequence_Fast_GET_ITEM(sequence, place);
            int64_t small = small_int(item);
            if (small >= 0) {
                sum += factors[i] * (uint64_t)small;
                continue;
            }
            Py_INCREF(item);
            uint64_t value = token_id(item);
            Py_DECREF(item);
            if (value == UINT64_MAX) {
                return -1;
            }
            sum += factors[i] * value;
        }
        keys[block] = sum;
    }
    return 0;
}

static int
hash_buffer(const Py_buffer *tokens, int is_signed, const uint64_t *factors, Py_ssize_t size,
            Py_ssize_t blocks, uint64_t *keys)
{
    uint64_t outside = 0;
    if (tokens->itemsize == 4) {
        const uint32_t *ids = tokens->buf;
        uint32_t top = 0;
        for (Py_ssize_t block = 0; block < blocks; block++, ids += size) {
            uint64_t sum = 0;
            for (Py_ssize_t i = 0; i < size; i++) {
                sum += factors[i] * ids[i];
                top |= ids[i];
            }
            keys[block] = sum;
        }
        outside = is_signed ? top >> 31 : 0;
    }
    else {
        const uint64_t *ids = tokens->buf;
        for (Py_ssize_t block = 0; block < blocks; block++, ids += size) {
            uint64_t sum = 0;
            for (Py_ssize_t i = 0; i < size; i++) {
                sum += factors[i] * ids[i];
                outside |= ids[i];
            }
            keys[block] = sum;
        }
        outside >>= 32;
    }
    if (outside) {
        PyErr_SetString(PyExc_OverflowError, "a token id is negative or over 32 bits");
        return -1;
    }
    return 0;
}

/* 1 for signed, 0 for unsigned, -1 for a format that is no integer of 4 or 8 bytes. */
static int
signedness(const Py_buffer *tokens)
{
    const char *format = tokens->format != NULL ? tokens->format : "B";
    if (tokens->ndim != 1 || (tokens->itemsize != 4 && tokens->itemsize != 8) ||
        (tokens->len && (uintptr_t)tokens->buf % tokens->itemsize != 0)) {
        return -1;
    }
    if (*format == '@' || *format == '=') {
        format++;
    }
    if (*format == '\0' || format[1] != '\0') {
        return -1;
    }
    return strchr("ilq", *format) ? 1 : strchr("ILQ", *format) ? 0 : -1;
}

static PyObject *
keys(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "keys(tokens, factors, block_size)");
        return NULL;
    }
    PyObject *tokens = args[0];
    Py_ssize_t size = PyLong_AsSsize_t(args[2]);
    Py_buffer factors;
    if (size == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &factors, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    if (size < 1 || factors.len / (Py_ssize_t)sizeof(uint64_t) != size) {
        PyErr_SetString(PyExc_ValueError, "one factor for each token of a block");
    }
    else if (PyList_Check(tokens) || PyTuple_Check(tokens)) {
        Py_ssize_t blocks = PySequence_Fast_GET_SIZE(tokens) / size;
        result = PyBytes_FromStringAndSize(NULL, blocks * (Py_ssize_t)sizeof(uint64_t));
        if (result != NULL &&
            hash_items(tokens, factors.buf, size, blocks,
                       (uint64_t *)PyBytes_AS_STRING(result)) < 0) {
            Py_CLEAR(result);
        }
    }
    else {
        Py_buffer ids;
        if (PyObject_GetBuffer(tokens, &ids, PyBUF_FORMAT | PyBUF_ND) == 0) {
            int is_signed = signedness(&ids);
            if (is_signed < 0) {
                PyErr_SetString(PyExc_TypeError, "tokens must be integers of 4 or 8 bytes");
            }
            else {
                Py_ssize_t blocks = ids.len / ids.itemsize / size;
                result = PyBytes_FromStringAndSize(NULL, blocks * (Py_ssize_t)sizeof(uint64_t));
                if (result != NULL &&
                    hash_buffer(&ids, is_signed, factors.buf, size, blocks,
                                (uint64_t *)PyBytes_AS_STRING(result)) < 0) {
                    Py_CLEAR(result);
                }
            }
            PyBuffer_Release(&ids);
        }
    }
    PyBuffer_Release(&factors);
    return result;
}

/* -- nodes ---------------------------------------------------------------------- */

enum { CHILDREN, DEPTH, EDGE, EXPECTED, EXPECTING, HOLDERS, PARTIAL, SIZE, USES, SLOTS };

static const char *const slot_names[SLOTS] = {
    "children", "depth", "edge", "expected", "expecting", "holders", "partial", "size", "uses",
};
static Py_ssize_t slot_offsets[SLOTS];
static PyTypeObject *node_type = NULL;

static inline PyObject **
slot(PyObject *node, int which)
{
    return (PyObject **)((char *)node + slot_offsets[which]);
}

static inline void
set_slot(PyObject *node, int which, PyObject *value)
{
    PyObject **place = slot(node, which);
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

static PyObject *
bind(PyObject *module, PyObject *type)
{
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "bind(Node)");
        return NULL;
    }
    for (int which = 0; which < SLOTS; which++) {
        PyObject *member = PyObject_GetAttrString(type, slot_names[which]);
        if (member == NULL) {
            return NULL;
        }
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type)) {
            PyErr_Format(PyExc_TypeError, "%s is no slot", slot_names[which]);
            Py_DECREF(member);
            return NULL;
        }
        slot_offsets[which] = ((PyMemberDescrObject *)member)->d_member->offset;
        Py_DECREF(member);
    }
    Py_INCREF(type);
    Py_XSETREF(node_type, (PyTypeObject *)type);
    Py_RETURN_NONE;
}

static int
is_node(PyObject *object)
{
    if (node_type == NULL || !Py_IS_TYPE(object, node_type)) {
        PyErr_SetString(PyExc_TypeError, "not a node, or bind(Node) was not called");
        return 0;
    }
    for (int which = 0; which < SLOTS; which++) {
        if (*slot(object, which) == NULL) {
            PyErr_SetString(PyExc_AttributeError, slot_names[which]);
            return 0;
        }
    }
    return 1;
}

/* (path, blocks, in_last, alive, drops): see walk.plain_walk. */
static PyObject *
walk(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(args[1]) || !is_node(args[0])) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "walk(root, keys, columns)");
        }
        return NULL;
    }
    const char *keys = PyBytes_AS_STRING(args[1]);
    Py_ssize_t end = PyBytes_GET_SIZE(args[1]), position = 0, in_last = 0;
    uint64_t alive = PyLong_AsUnsignedLongLong(args[2]);
    if (alive == UINT64_MAX && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *path = PyList_New(0), *drops = PyList_New(0);
    if (path == NULL || drops == NULL) {
        goto fail;
    }
    PyObject *children = *slot(args[0], CHILDREN);
    while (position + 8 <= end && !in_last) {
        PyObject *key = PyBytes_FromStringAndSize(keys + position, 8);
        if (key == NULL) {
            goto fail;
        }
        PyObject *child = PyDict_GetItemWithError(children, key);
        Py_DECREF(key);
        if (child == NULL) {
            if (PyErr_Occurred()) {
                goto fail;
            }
            break;
        }
        if (!is_node(child) || PyList_Append(path, child) < 0) {
            goto fail;
        }
        PyObject *edge = *slot(child, EDGE);
        if (!PyBytes_Check(edge) || PyBytes_GET_SIZE(edge) < 8) {
            PyErr_SetString(PyExc_TypeError, "a node without keys");
            goto fail;
        }
        Py_ssize_t whole = PyBytes_GET_SIZE(edge), left = end - position, matched = whole;
        const char *edge_keys = PyBytes_AS_STRING(edge);
        if (left < whole || memcmp(edge_keys, keys + position, whole) != 0) {
            Py_ssize_t most = (left < whole ? left : whole) / 8;
            Py_ssize_t alike = 0;
            while (alike < most &&
                   memcmp(edge_keys + 8 * alike, keys + position + 8 * alike, 8) == 0) {
                alike++;
            }
            matched = 8 * alike;
            in_last = alike;
        }
        uint64_t held = PyLong_AsUnsignedLongLongMask(*slot(child, HOLDERS)) |
                        PyLong_AsUnsignedLongLongMask(*slot(child, EXPECTED));
        uint64_t dropped = alive & ~held;
        if (dropped) {
            alive ^= dropped;
            PyObject *drop =
                Py_BuildValue("(KOnn)", (unsigned long long)dropped, child, position / 8,
                              matched / 8);
            if (drop == NULL || PyList_Append(drops, drop) < 0) {
                Py_XDECREF(drop);
                goto fail;
            }
            Py_DECREF(drop);
        }
        position += matched;
        children = *slot(child, CHILDREN);
    }
    return Py_BuildValue("(NnnKN)", path, position / 8, in_last, (unsigned long long)alive, drops);
fail:
    Py_XDECREF(path);
    Py_XDECREF(drops);
    return NULL;
}

#define COUNT_BITS 20
#define MOST_USES (((int64_t)1 << COUNT_BITS) - 1)

/* Count a use in a node's `uses`: usage.counted. */
static int
count_use(PyObject *node, PyObject *column, PyObject *first_use)
{
    PyObject *uses = *slot(node, USES);
    if (uses == Py_None) {
        uses = PyDict_New();
        if (uses == NULL) {
            return -1;
        }
        set_slot(node, USES, uses);
        return PyDict_SetItem(uses, column, first_use);
    }
    PyObject *known = PyDict_GetItemWithError(uses, column);
    if (known == NULL) {
        return PyErr_Occurred() ? -1 : PyDict_SetItem(uses, column, first_use);
    }
    int64_t use = PyLong_AsLongLong(known), first = PyLong_AsLongLong(first_use);
    if (PyErr_Occurred()) {
        return -1;
    }
    int64_t age = (first >> 2 * COUNT_BITS) - (use >> 2 * COUNT_BITS);
    int64_t counted = use >> COUNT_BITS & MOST_USES;
    if (age == 0) {
        use += counted < MOST_USES ? (int64_t)1 << COUNT_BITS : 0;
    }
    else {
        use = age == 1 ? (first | counted) : first;
    }
    PyObject *value = PyLong_FromLongLong(use);
    if (value == NULL) {
        return -1;
    }
    int result = PyDict_SetItem(uses, column, value);
    Py_DECREF(value);
    return result;
}

/* Blocks of a partly held node that `column` holds. */
static Py_ssize_t
held_blocks(PyObject *node, PyObject *column)
{
    PyObject *partial = *slot(node, PARTIAL);
    if (partial == Py_None) {
        return 0;
    }
    PyObject *bitmap = PyDict_GetItemWithError(partial, column);
    if (bitmap == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *counted = PyObject_CallMethod(bitmap, "bit_count", NULL);
    if (counted == NULL) {
        return -1;
    }
    Py_ssize_t count = PyLong_AsSsize_t(counted);
    Py_DECREF(counted);
    return count;
}

/* Let a node that lacks blocks be expected; its blocks that are so anew. */
static Py_ssize_t
expect_node(PyObject *node, PyObject *column, uint64_t bit, PyObject *begun, Py_ssize_t held)
{
    PyObject *expecting = *slot(node, EXPECTING);
    if (expecting == Py_None) {
        expecting = PyDict_New();
        if (expecting == NULL) {
            return -1;
        }
        set_slot(node, EXPECTING, expecting);
    }
    else if (PyLong_AsUnsignedLongLongMask(*slot(node, EXPECTED)) & bit) {
        PyObject *waiting = PyDict_GetItemWithError(expecting, column);
        if (waiting == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_KeyError, "expected by nobody");
            }
            return -1;
        }
        PyObject *more = PyLong_FromLongLong(PyLong_AsLongLong(waiting) + 1);
        if (more == NULL || PyErr_Occurred() || PyDict_SetItem(expecting, column, more) < 0) {
            Py_XDECREF(more);
            return -1;
        }
        Py_DECREF(more);
        return 0;
    }
    PyObject *own = PyLong_FromUnsignedLongLong(bit);
    PyObject *expected = own ? PyNumber_Or(*slot(node, EXPECTED), own) : NULL;
    Py_XDECREF(own);
    if (expected == NULL || PyDict_SetItem(expecting, column, begun) < 0) {
        Py_XDECREF(expected);
        return -1;
    }
    set_slot(node, EXPECTED, expected);
    return PyLong_AsSsize_t(*slot(node, SIZE)) - held;
}

/* (depth, blocks): see walk.plain_expect. */
static PyObject *
expect(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyList_Check(args[0]) || !PyLong_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "expect(path, column, first_use, begun, recent)");
        return NULL;
    }
    PyObject *path = args[0], *column = args[1], *recent = args[4];
    long place = PyLong_AsLong(column);
    if (place < 0 || place > 63) {
        PyErr_SetString(PyExc_ValueError, "a column from 0 to 63");
        return NULL;
    }
    uint64_t bit = (uint64_t)1 << place;
    Py_ssize_t depth = -1, blocks = 0;
    for (Py_ssize_t i = PyList_GET_SIZE(path) - 1; i >= 0; i--) {
        PyObject *node = PyList_GET_ITEM(path, i);
        if (!is_node(node) || count_use(node, column, args[2]) < 0) {
            return NULL;
        }
        int whole = (PyLong_AsUnsignedLongLongMask(*slot(node, HOLDERS)) & bit) != 0;
        Py_ssize_t held = whole ? 0 : held_blocks(node, column);
        if (held < 0) {
            return NULL;
        }
        if (whole || held) {
            PyObject *moved = PyObject_CallOneArg(recent, node);
            if (moved == NULL) {
                return NULL;
            }
            Py_DECREF(moved);
        }
        if (!whole) {
            depth = PyLong_AsSsize_t(*slot(node, DEPTH));
            Py_ssize_t more = expect_node(node, column, bit, args[3], held);
            if (more < 0) {
                return NULL;
            }
            blocks += more;
        }
    }
    return Py_BuildValue("(nn)", depth, blocks);
}

static PyMethodDef methods[] = {
    {"keys", (PyCFunction)(void (*)(void))keys, METH_FASTCALL,
     "keys(tokens, factors, block_size): packed 64-bit keys of the full blocks."},
    {"bind", bind, METH_O, "bind(Node): look up the offsets of its slots."},
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL,
     "walk(root, keys, columns): (path, blocks, in_last, alive, drops)."},
    {"expect", (PyCFunction)(void (*)(void))expect, METH_FASTCALL,
     "expect(path, column, first_use, begun, recent): (depth, blocks)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "preble_plugin.core._speed", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__speed(void)
{
    return PyModule_Create(&module);
}
