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
    if (size < 1 || factors.len / (Py_ssize_t)sizeof(uint64_t) != size ||
        (uintptr_t)factors.buf % sizeof(uint64_t) != 0) {
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

/* A slot's value, owned by the caller: what is called meanwhile may write to the slot.
 * NULL with AttributeError for an empty one. */
static PyObject *
slot_value(PyObject *node, int which)
{
    PyObject *value = *slot(node, which);
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, slot_names[which]);
        return NULL;
    }
    Py_INCREF(value);
    return value;
}

/* Takes over the reference to `value`. */
static inline void
set_slot(PyObject *node, int which, PyObject *value)
{
    PyObject **place = slot(node, which);
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

/* The value of an int in *value: 0, or -1 with TypeError or OverflowError. Only exact
 * ints are read, so that no other code runs. */
static int
as_int64(PyObject *object, int64_t *value)
{
    if (!PyLong_CheckExact(object)) {
        PyErr_Format(PyExc_TypeError, "an int is needed, not %.100s", Py_TYPE(object)->tp_name);
        return -1;
    }
    int overflow;
    long long found = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow) {
        PyErr_SetString(PyExc_OverflowError, "an int is over 64 bits");
        return -1;
    }
    *value = found;
    return 0;
}

/* The low 64 bits of a mask of columns in a slot: 0, or -1 with an exception. */
static int
slot_mask(PyObject *node, int which, uint64_t *mask)
{
    PyObject *value = slot_value(node, which);
    if (value == NULL) {
        return -1;
    }
    int is_int = PyLong_CheckExact(value);
    if (is_int) {
        *mask = PyLong_AsUnsignedLongLongMask(value);
    }
    else {
        PyErr_Format(PyExc_TypeError, "%s is no int", slot_names[which]);
    }
    Py_DECREF(value);
    return is_int ? 0 : -1;
}

/* A number of blocks in a slot: 0, or -1 with an exception. Their sums over a path do
 * not overflow. */
static int
slot_blocks(PyObject *node, int which, Py_ssize_t *blocks)
{
    PyObject *value = slot_value(node, which);
    if (value == NULL) {
        return -1;
    }
    int64_t found;
    int result = as_int64(value, &found);
    Py_DECREF(value);
    if (result == 0 && (found < 0 || found > INT32_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s is no number of blocks", slot_names[which]);
        return -1;
    }
    *blocks = result == 0 ? (Py_ssize_t)found : 0;
    return result;
}

/* A dict of a slot that is None where it is empty, owned by the caller: made if it is
 * None and `make`, else None. NULL with an exception. */
static PyObject *
slot_dict(PyObject *node, int which, int make)
{
    PyObject *found = slot_value(node, which);
    if (found == NULL || PyDict_CheckExact(found) || (found == Py_None && !make)) {
        return found;
    }
    if (found != Py_None) {
        PyErr_Format(PyExc_TypeError, "%s is no dict", slot_names[which]);
        Py_DECREF(found);
        return NULL;
    }
    Py_SETREF(found, PyDict_New());
    if (found != NULL) {
        Py_INCREF(found);
        set_slot(node, which, found);
    }
    return found;
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
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type) ||
            ((PyMemberDescrObject *)member)->d_member->type != T_OBJECT_EX) {
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
    PyObject *path = PyList_New(0), *drops = PyList_New(0), *children = NULL;
    if (path == NULL || drops == NULL) {
        goto fail;
    }
    children = slot_dict(args[0], CHILDREN, 1);
    if (children == NULL) {
        goto fail;
    }
    while (position + 8 <= end && !in_last) {
        PyObject *key = PyBytes_FromStringAndSize(keys + position, 8);
        if (key == NULL) {
            goto fail;
        }
        PyObject *child = PyDict_GetItemWithError(children, key);
        Py_XINCREF(child);
        Py_DECREF(key);
        if (child == NULL) {
            if (PyErr_Occurred()) {
                goto fail;
            }
            break;
        }
        int taken = is_node(child) ? PyList_Append(path, child) : -1;
        Py_DECREF(child); /* the path keeps it */
        if (taken < 0) {
            goto fail;
        }
        PyObject *edge = slot_value(child, EDGE);
        if (edge == NULL) {
            goto fail;
        }
        if (!PyBytes_Check(edge) || PyBytes_GET_SIZE(edge) < 8) {
            PyErr_SetString(PyExc_TypeError, "a node without keys");
            Py_DECREF(edge);
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
        Py_DECREF(edge);
        uint64_t holders, expected;
        if (slot_mask(child, HOLDERS, &holders) < 0 || slot_mask(child, EXPECTED, &expected) < 0) {
            goto fail;
        }
        uint64_t dropped = alive & ~(holders | expected);
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
        Py_SETREF(children, slot_dict(child, CHILDREN, 1));
        if (children == NULL) {
            goto fail;
        }
    }
    Py_DECREF(children);
    return Py_BuildValue("(NnnKN)", path, position / 8, in_last, (unsigned long long)alive, drops);
fail:
    Py_XDECREF(children);
    Py_XDECREF(path);
    Py_XDECREF(drops);
    return NULL;
}

#define COUNT_BITS 20
#define MOST_USES (((int64_t)1 << COUNT_BITS) - 1)
#define EPOCHS ((int64_t)1 << 22)

/* The counter `use` after one more, which alone would be `first`: usage.count_use. */
static int64_t
counted_use(int64_t use, int64_t first)
{
    int64_t age = ((first >> 2 * COUNT_BITS) - (use >> 2 * COUNT_BITS)) & (EPOCHS - 1);
    int64_t counted = use >> COUNT_BITS & MOST_USES;
    if (age == 0) {
        return use + (counted < MOST_USES ? (int64_t)1 << COUNT_BITS : 0);
    }
    return age == 1 ? (first | counted) : first;
}

/* The int in a dict of ints by column: 1, 0 where there is none, -1 with an exception. */
static int
dict_int64(PyObject *dict, PyObject *column, int64_t *value)
{
    PyObject *found = PyDict_GetItemWithError(dict, column);
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return as_int64(found, value) < 0 ? -1 : 1;
}

static int
set_dict_int64(PyObject *dict, PyObject *column, int64_t value)
{
    PyObject *number = PyLong_FromLongLong(value);
    if (number == NULL) {
        return -1;
    }
    int result = PyDict_SetItem(dict, column, number);
    Py_DECREF(number);
    return result;
}

/* Count a use in a node's `uses`: usage.count_use. */
static int
count_use(PyObject *node, PyObject *column, PyObject *first_use, int64_t first)
{
    PyObject *uses = slot_dict(node, USES, 1);
    if (uses == NULL) {
        return -1;
    }
    int64_t use;
    int known = dict_int64(uses, column, &use);
    int result = known;
    if (known >= 0) {
        result = known ? set_dict_int64(uses, column, counted_use(use, first))
                       : PyDict_SetItem(uses, column, first_use);
    }
    Py_DECREF(uses);
    return result;
}

/* Blocks of a partly held node that `column` holds: 0, or -1 with an exception. */
static int
held_blocks(PyObject *node, PyObject *column, Py_ssize_t *blocks)
{
    *blocks = 0;
    PyObject *partial = slot_dict(node, PARTIAL, 0);
    if (partial == NULL || partial == Py_None) {
        Py_XDECREF(partial);
        return partial == NULL ? -1 : 0;
    }
    PyObject *bitmap = PyDict_GetItemWithError(partial, column);
    Py_XINCREF(bitmap);
    Py_DECREF(partial);
    if (bitmap == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *counted = NULL;
    if (PyLong_CheckExact(bitmap)) {
        counted = PyObject_CallMethod(bitmap, "bit_count", NULL);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "a bitmap is no int");
    }
    Py_DECREF(bitmap);
    if (counted == NULL) {
        return -1;
    }
    int64_t count;
    int result = as_int64(counted, &count);
    Py_DECREF(counted);
    *blocks = result == 0 ? (Py_ssize_t)count : 0;
    return result;
}

/* Let a node be expected by one request more, of which `held` blocks are there. Adds
 * the blocks that are so anew to *blocks: 0, or -1 with an exception. */
static int
expect_node(PyObject *node, PyObject *column, uint64_t bit, PyObject *begun, Py_ssize_t held,
            Py_ssize_t *blocks)
{
    uint64_t mask;
    Py_ssize_t size;
    if (slot_mask(node, EXPECTED, &mask) < 0 || slot_blocks(node, SIZE, &size) < 0) {
        return -1;
    }
    PyObject *expecting = slot_dict(node, EXPECTING, 1);
    if (expecting == NULL) {
        return -1;
    }
    int result;
    if (mask & bit) {
        int64_t waiting;
        result = dict_int64(expecting, column, &waiting);
        if (result == 0 || (result > 0 && waiting == INT64_MAX)) {
            PyErr_SetString(result ? PyExc_OverflowError : PyExc_KeyError, "requests expecting");
            result = -1;
        }
        else if (result > 0) {
            result = set_dict_int64(expecting, column, waiting + 1);
        }
        Py_DECREF(expecting);
        return result;
    }
    result = PyDict_SetItem(expecting, column, begun);
    Py_DECREF(expecting);
    if (result < 0) {
        return -1;
    }
    PyObject *before = slot_value(node, EXPECTED);
    PyObject *own = before ? PyLong_FromUnsignedLongLong(bit) : NULL;
    PyObject *expected = own ? PyNumber_Or(before, own) : NULL;
    Py_XDECREF(before);
    Py_XDECREF(own);
    if (expected == NULL) {
        return -1;
    }
    set_slot(node, EXPECTED, expected);
    *blocks += size - held;
    return 0;
}

/* Count a request's use of one node, and expect what of it is missing. */
static int
book_node(PyObject *node, PyObject *column, uint64_t bit, PyObject *first_use, int64_t first,
          PyObject *begun, PyObject *recent, Py_ssize_t *depth, Py_ssize_t *blocks)
{
    uint64_t holders;
    Py_ssize_t held = 0;
    if (!is_node(node) || count_use(node, column, first_use, first) < 0 ||
        slot_mask(node, HOLDERS, &holders) < 0) {
        return -1;
    }
    int whole = (holders & bit) != 0;
    if (!whole && held_blocks(node, column, &held) < 0) {
        return -1;
    }
    if (whole || held) {
        PyObject *moved = PyObject_CallOneArg(recent, node);
        if (moved == NULL) {
            return -1;
        }
        Py_DECREF(moved);
    }
    if (whole) {
        return 0;
    }
    return slot_blocks(node, DEPTH, depth) < 0
               ? -1
               : expect_node(node, column, bit, begun, held, blocks);
}

/* (depth, blocks): see walk.plain_expect. */
static PyObject *
expect(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "expect(path, column, first_use, begun, recent)");
        return NULL;
    }
    PyObject *path = args[0], *column = args[1];
    int64_t place, first, begun;
    if (as_int64(column, &place) < 0 || as_int64(args[2], &first) < 0 ||
        as_int64(args[3], &begun) < 0) {
        return NULL;
    }
    if (place < 0 || place > 63) {
        PyErr_SetString(PyExc_ValueError, "a column from 0 to 63");
        return NULL;
    }
    uint64_t bit = (uint64_t)1 << place;
    Py_ssize_t depth = -1, blocks = 0;
    for (Py_ssize_t i = PyList_GET_SIZE(path) - 1; i >= 0; i--) {
        /* The size is read anew: `recent` may run any code. */
        if (i >= PyList_GET_SIZE(path)) {
            PyErr_SetString(PyExc_RuntimeError, "the path changed while it was read");
            return NULL;
        }
        PyObject *node = PyList_GET_ITEM(path, i);
        Py_INCREF(node);
        int booked =
            book_node(node, column, bit, args[2], first, args[3], args[4], &depth, &blocks);
        Py_DECREF(node);
        if (booked < 0) {
            return NULL;
        }
    }
    return Py_BuildValue("(nn)", depth, blocks);
}

/* Link two nodes of an order of use; a node that drops out of a dict may be freed. */
static int
link_nodes(PyObject *after, PyObject *before, PyObject *first, PyObject *second)
{
    return PyDict_SetItem(after, first, second) < 0 || PyDict_SetItem(before, second, first) < 0
               ? -1
               : 0;
}

/* None: see use_order.UseOrder.use. */
static PyObject *
use(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyDict_CheckExact(args[0]) || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "use(after, before, end, node)");
        return NULL;
    }
    PyObject *after = args[0], *before = args[1], *end = args[2], *node = args[3];
    PyObject *next = PyDict_GetItemWithError(after, node);
    if (next == end) {
        Py_RETURN_NONE;
    }
    if (next == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (next != NULL) {
        PyObject *previous = PyDict_GetItemWithError(before, node);
        if (previous == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_SetObject(PyExc_KeyError, node);
            }
            return NULL;
        }
        Py_INCREF(next);
        Py_INCREF(previous);
        int failed = link_nodes(after, before, previous, next);
        Py_DECREF(next);
        Py_DECREF(previous);
        if (failed) {
            return NULL;
        }
    }
    PyObject *last = PyDict_GetItemWithError(before, end);
    if (last == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetObject(PyExc_KeyError, end);
        }
        return NULL;
    }
    Py_INCREF(last);
    int failed = link_nodes(after, before, last, node) || link_nodes(after, before, node, end);
    Py_DECREF(last);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"keys", (PyCFunction)(void (*)(void))keys, METH_FASTCALL,
     "keys(tokens, factors, block_size): packed 64-bit keys of the full blocks."},
    {"bind", bind, METH_O, "bind(Node): look up the offsets of its slots."},
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL,
     "walk(root, keys, columns): (path, blocks, in_last, alive, drops)."},
    {"expect", (PyCFunction)(void (*)(void))expect, METH_FASTCALL,
     "expect(path, column, first_use, begun, recent): (depth, blocks)."},
    {"use", (PyCFunction)(void (*)(void))use, METH_FASTCALL,
     "use(after, before, end, node): make a node the last of an order of use."},
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
