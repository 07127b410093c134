/*
 * How values lie in memory; private to the codec.
 */
#ifndef VARVE_QAPI_VALUE_H
#define VARVE_QAPI_VALUE_H

#include "qapi/codec.h"

/* Every generated list has this shape. */
struct qapi_any_list {
    size_t n;
    char *items;
};

static inline bool qapi_is_pointer(const struct qapi_type *type)
{
    return type->meta == QAPI_META_STR || type->meta == QAPI_META_ANY ||
           type->meta == QAPI_META_STRUCT || type->meta == QAPI_META_ALTERNATE;
}

/* The JSON kind by which an alternate knows a member of this type. */
enum qapi_kind qapi_kind_of(const struct qapi_type *type);
/* The member type of that kind, or NULL. */
const struct qapi_type *qapi_alternate_type(const struct qapi_type *type,
                                            enum qapi_kind kind);
/* The struct that the value's discriminator chooses, or NULL. */
const struct qapi_type *qapi_union_branch(const struct qapi_type *type,
                                          const void *value);
/* Bytes of a member or list item of this type. */
size_t qapi_slot_size(const struct qapi_type *type);

#endif
