/*
 * Looking for what a value refers to: strings where an alternate takes one.
 */
#include "qapi/codec.h"

#include "qapi/value.h"

struct search {
    const struct qapi_type *wanted;
    GPtrArray *found;
};

static void search_value(const struct search *s, const struct qapi_type *type,
                         const char *value);

static void search_slot(const struct search *s, const struct qapi_type *type,
                        const char *slot)
{
    if (type->meta == QAPI_META_STRUCT || type->meta == QAPI_META_ALTERNATE) {
        search_value(s, type, *(const char *const *)slot);
    } else if (type->meta == QAPI_META_LIST) {
        search_value(s, type, slot);
    }
}

static void search_struct(const struct search *s, const struct qapi_type *type,
                          const char *value)
{
    const struct qapi_type *branch = qapi_union_branch(type, value);

    for (uint32_t i = 0; i < type->n; i++) {
        search_slot(s, type->members[i].type, value + type->members[i].offset);
    }
    if (branch) {
        search_struct(s, branch, value + type->u_offset);
    }
}

static void search_alternate(const struct search *s,
                             const struct qapi_type *type, const char *value)
{
    enum qapi_kind kind = *(const enum qapi_kind *)value;
    const struct qapi_type *chosen = qapi_alternate_type(type, kind);
    const char *u = value + type->u_offset;

    if (kind == QAPI_KIND_STRING && type == s->wanted) {
        g_ptr_array_add(s->found, *(char *const *)u);
    } else if (chosen && chosen->meta == QAPI_META_STRUCT) {
        search_struct(s, chosen, u);
    }
}

static void search_value(const struct search *s, const struct qapi_type *type,
                         const char *value)
{
    if (!value) {
        return;
    }
    if (type->meta == QAPI_META_STRUCT) {
        search_struct(s, type, value);
    } else if (type->meta == QAPI_META_ALTERNATE) {
        search_alternate(s, type, value);
    } else if (type->meta == QAPI_META_LIST) {
        const struct qapi_any_list *list = (const void *)value;
        size_t item = qapi_slot_size(type->element);

        for (size_t i = 0; i < list->n; i++) {
            search_slot(s, type->element, list->items + i * item);
        }
    }
}

void qapi_alternate_strings(const struct qapi_type *type, const void *value,
                            const struct qapi_type *alternate, GPtrArray *found)
{
    const struct search s = {.wanted = alternate, .found = found};

    search_value(&s, type, value);
}
