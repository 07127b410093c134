/*
 * Lists of the built-in types, and appending to any list. A list member of a
 * generated struct has the same shape.
 */
#ifndef VARVE_QAPI_LISTS_H
#define VARVE_QAPI_LISTS_H

#include "qapi/codec.h"

#define QAPI_DECLARE_LIST(name, ctype) \
    struct name {                      \
        size_t n;                      \
        ctype *items;                  \
    };                                 \
    QAPI_DECLARE(name)

QAPI_DECLARE_LIST(str_list, char *)
QAPI_DECLARE_LIST(bool_list, bool)
QAPI_DECLARE_LIST(number_list, double)
QAPI_DECLARE_LIST(any_list, struct json_object *)
QAPI_DECLARE_LIST(int_list, int64_t)
QAPI_DECLARE_LIST(size_list, uint64_t)
QAPI_DECLARE_LIST(int8_list, int8_t)
QAPI_DECLARE_LIST(int16_list, int16_t)
QAPI_DECLARE_LIST(int32_list, int32_t)
QAPI_DECLARE_LIST(int64_list, int64_t)
QAPI_DECLARE_LIST(uint8_list, uint8_t)
QAPI_DECLARE_LIST(uint16_list, uint16_t)
QAPI_DECLARE_LIST(uint32_list, uint32_t)
QAPI_DECLARE_LIST(uint64_list, uint64_t)

/* Appends to a list by value: qapi_list_append(&x->items_member, item). Takes
 * over the item. Amortised constant time. */
#define qapi_list_append(list, item)                             \
    do {                                                         \
        __typeof__(list) list_ = (list);                         \
        list_->items = (__typeof__(list_->items))qapi_list_grow( \
            list_->items, list_->n, sizeof(*list_->items));      \
        list_->items[list_->n++] = (item);                       \
    } while (0)
void *qapi_list_grow(void *items, size_t n, size_t item_size);

#endif
