/*
 * Values of schema types in memory: freeing, copying, enum names, and the
 * tables of the built-in types. A slot is where a member lives: the value
 * itself for scalars and lists, a pointer for strings and structs.
 */
#include "qapi/value.h"

#include <json-c/json.h>
#include <string.h>

#include "qapi/lists.h"

#define SCALAR(n, m, ctype, ...)                                    \
    const struct qapi_type qapi_type_##n = {                        \
        .name = #n, .meta = m, .size = sizeof(ctype), __VA_ARGS__}; \
    const struct qapi_type qapi_type_##n##_list = {                 \
        .name = #n "List",                                          \
        .meta = QAPI_META_LIST,                                     \
        .size = sizeof(struct n##_list),                            \
        .element = &qapi_type_##n}
#define INTEGER(n, ctype, b, s) \
    SCALAR(n, QAPI_META_INT, ctype, .bits = b, .is_signed = s)

const struct qapi_type qapi_type_null = {.name = "null",
                                         .meta = QAPI_META_NULL};
SCALAR(bool, QAPI_META_BOOL, bool);
SCALAR(number, QAPI_META_NUMBER, double);
SCALAR(str, QAPI_META_STR, char *);
SCALAR(any, QAPI_META_ANY, struct json_object *);
SCALAR(size, QAPI_META_INT, uint64_t, .bits = 64, .is_bytes = true);
INTEGER(int, int64_t, 64, true);
INTEGER(int8, int8_t, 8, true);
INTEGER(int16, int16_t, 16, true);
INTEGER(int32, int32_t, 32, true);
INTEGER(int64, int64_t, 64, true);
INTEGER(uint8, uint8_t, 8, false);
INTEGER(uint16, uint16_t, 16, false);
INTEGER(uint32, uint32_t, 32, false);
INTEGER(uint64, uint64_t, 64, false);

enum qapi_kind qapi_kind_of(const struct qapi_type *type)
{
    switch (type->meta) {
    case QAPI_META_NULL:
        return QAPI_KIND_NULL;
    case QAPI_META_BOOL:
        return QAPI_KIND_BOOL;
    case QAPI_META_INT:
        return QAPI_KIND_INT;
    case QAPI_META_NUMBER:
        return QAPI_KIND_NUMBER;
    case QAPI_META_STR:
    case QAPI_META_ENUM:
        return QAPI_KIND_STRING;
    case QAPI_META_LIST:
        return QAPI_KIND_ARRAY;
    case QAPI_META_ANY:
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE:
        break;
    }
    return QAPI_KIND_OBJECT;
}

const struct qapi_type *qapi_alternate_type(const struct qapi_type *type,
                                            enum qapi_kind kind)
{
    for (uint32_t i = 0; i < type->n; i++) {
        if (qapi_kind_of(type->members[i].type) == kind) {
            return type->members[i].type;
        }
    }
    return NULL;
}

const struct qapi_type *qapi_union_branch(const struct qapi_type *type,
                                          const void *value)
{
    if (!type->branches) {
        return NULL;
    }
    const struct qapi_member *tag = &type->members[type->tag];
    unsigned branch;
    memcpy(&branch, (const char *)value + tag->offset, sizeof(branch));
    return branch < tag->type->n ? type->branches[branch] : NULL;
}

size_t qapi_slot_size(const struct qapi_type *type)
{
    return qapi_is_pointer(type) ? sizeof(void *) : type->size;
}

/* ---- freeing ---- */

static void clear_slot(const struct qapi_type *type, void *slot)
{
    switch (type->meta) {
    case QAPI_META_STR:
        g_free(*(char **)slot);
        break;
    case QAPI_META_ANY:
        json_object_put(*(struct json_object **)slot);
        break;
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE:
        qapi_free(type, *(void **)slot);
        break;
    case QAPI_META_LIST:
        qapi_clear(type, slot);
        break;
    default:
        break;
    }
}

static void clear_members(const struct qapi_type *type, char *value)
{
    const struct qapi_type *branch = qapi_union_branch(type, value);
    if (branch) {
        clear_members(branch, value + type->u_offset);
    }
    for (uint32_t i = 0; i < type->n; i++) {
        clear_slot(type->members[i].type, value + type->members[i].offset);
    }
}

void qapi_clear(const struct qapi_type *type, void *value)
{
    if (type->meta == QAPI_META_LIST) {
        struct qapi_any_list *list = value;
        if (qapi_is_pointer(type->element)) {
            for (size_t i = 0; i < list->n; i++) {
                clear_slot(type->element,
                           list->items + i * qapi_slot_size(type->element));
            }
        }
        g_free(list->items);
    } else if (type->meta == QAPI_META_ALTERNATE) {
        enum qapi_kind kind = *(enum qapi_kind *)value;
        const struct qapi_type *chosen = qapi_alternate_type(type, kind);
        char *u = (char *)value + type->u_offset;
        if (chosen && chosen->meta == QAPI_META_STRUCT) {
            qapi_clear(chosen, u);
        } else if (chosen) {
            clear_slot(chosen, u);
        }
    } else if (type->meta == QAPI_META_STRUCT) {
        clear_members(type, value);
    } else {
        clear_slot(type, value);
    }
    memset(value, 0, type->size);
}

void qapi_free(const struct qapi_type *type, void *value)
{
    if (value) {
        qapi_clear(type, value);
        g_free(value);
    }
}

void qapi_free_at(const struct qapi_type *type, void *at)
{
    qapi_free(type, *(void **)at);
}

/* ---- copying: dst holds a bitwise copy of src, and gets its own pointers ----
 */

static void own_value(const struct qapi_type *type, void *value);

static void own_slot(const struct qapi_type *type, void *slot)
{
    switch (type->meta) {
    case QAPI_META_STR:
        *(char **)slot = g_strdup(*(char **)slot);
        break;
    case QAPI_META_ANY:
        json_object_get(*(struct json_object **)slot);
        break;
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE:
        *(void **)slot = qapi_clone(type, *(void **)slot);
        break;
    case QAPI_META_LIST:
        own_value(type, slot);
        break;
    default:
        break;
    }
}

static void own_members(const struct qapi_type *type, char *value)
{
    const struct qapi_type *branch = qapi_union_branch(type, value);
    if (branch) {
        own_members(branch, value + type->u_offset);
    }
    for (uint32_t i = 0; i < type->n; i++) {
        own_slot(type->members[i].type, value + type->members[i].offset);
    }
}

static void own_value(const struct qapi_type *type, void *value)
{
    if (type->meta == QAPI_META_LIST) {
        struct qapi_any_list *list = value;
        size_t item = qapi_slot_size(type->element);
        list->items = g_memdup2(list->items, list->n * item);
        for (size_t i = 0; i < list->n; i++) {
            own_slot(type->element, list->items + i * item);
        }
    } else if (type->meta == QAPI_META_ALTERNATE) {
        enum qapi_kind kind = *(enum qapi_kind *)value;
        const struct qapi_type *chosen = qapi_alternate_type(type, kind);
        char *u = (char *)value + type->u_offset;
        if (chosen && chosen->meta == QAPI_META_STRUCT) {
            own_value(chosen, u);
        } else if (chosen) {
            own_slot(chosen, u);
        }
    } else if (type->meta == QAPI_META_STRUCT) {
        own_members(type, value);
    } else {
        own_slot(type, value);
    }
}

void *qapi_clone(const struct qapi_type *type, const void *value)
{
    if (!value) {
        return NULL;
    }
    void *copy = g_memdup2(value, type->size);
    own_value(type, copy);
    return copy;
}

/* ---- small things ---- */

const char *qapi_enum_str(const struct qapi_type *type, unsigned value)
{
    return value < type->n ? type->values[value] : NULL;
}

int qapi_enum_parse(const struct qapi_type *type, const char *text)
{
    for (uint32_t i = 0; i < type->n; i++) {
        if (!strcmp(type->values[i], text)) {
            return (int)i;
        }
    }
    return -1;
}

void *qapi_list_grow(void *items, size_t n, size_t item_size)
{
    /* Room doubles whenever n reaches a power of two. */
    if (n & (n - 1)) {
        return items;
    }
    return g_realloc_n(items, n ? n * 2 : 1, item_size);
}
