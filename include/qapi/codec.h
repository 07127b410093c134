/*
 * Decodes, encodes, copies and frees values by the tables that qapi/gen makes
 * of the schema.
 *
 * How the schema looks in C:
 *   - struct or union `FooBar` is `struct foo_bar`, enum `FooBar` is
 *     `enum foo_bar` with FOO_BAR_<VALUE>, foo_bar_str() and foo_bar_parse();
 *   - an optional bool, number, enum or list `x` has `bool has_x` beside it;
 *     a str, struct, union, alternate or any that is absent is NULL, and one
 *     that is required is never NULL after decoding;
 *   - a list is by value: n, and items (pointers to structs; plain scalars);
 *   - a union has its common members, then `u` with one struct a branch, chosen
 *     by the discriminator; a branch without members has no entry in `u`;
 *   - an alternate has `kind`, and `u` with the member of that kind.
 *
 * A struct of zeroes is a valid value of any type as far as freeing and cloning
 * go. Strings and structs are g_malloc'd, so that a value can also be put
 * together by hand. Pure functions: they do not suspend, any loop.
 *
 * json-c appears as an opaque pointer only, so that the block layer can include
 * this file.
 */
#ifndef VARVE_QAPI_CODEC_H
#define VARVE_QAPI_CODEC_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

/* The JSON kinds that an alternate tells apart. An enum is a STRING. */
enum qapi_kind {
    QAPI_KIND_NULL,
    QAPI_KIND_BOOL,
    QAPI_KIND_INT,
    QAPI_KIND_NUMBER,
    QAPI_KIND_STRING,
    QAPI_KIND_ARRAY,
    QAPI_KIND_OBJECT,
};

/* Objects nest this deep at most, so that no input exhausts a coroutine's
 * stack. */
#define QAPI_MAX_DEPTH 128

/* ---- the tables (made by the generator) ---- */
enum qapi_meta {
    QAPI_META_NULL,
    QAPI_META_BOOL,
    QAPI_META_INT, /* sized by bits and is_signed */
    QAPI_META_NUMBER,
    QAPI_META_STR,
    QAPI_META_ANY,
    QAPI_META_ENUM,
    QAPI_META_STRUCT, /* and union, which has branches */
    QAPI_META_ALTERNATE,
    QAPI_META_LIST,
};

struct qapi_type;

struct qapi_member {
    const char *name;
    const struct qapi_type *type;
    uint32_t offset;
    uint32_t has_offset; /* of the bool has_x, if has_flag */
    bool optional;
    bool has_flag;
};

struct qapi_type {
    const char *name;
    enum qapi_meta meta;
    uint32_t size; /* bytes of the C type */
    uint8_t bits;  /* QAPI_META_INT */
    bool is_signed;
    bool is_bytes;                     /* "64k" may be typed for it */
    uint32_t n;                        /* members or values */
    const struct qapi_member *members; /* STRUCT, ALTERNATE */
    const char *const *values;         /* ENUM */
    const struct qapi_type *element;   /* LIST */
    /* Of a union: by the value of members[tag]; NULL = no members. */
    const struct qapi_type *const *branches;
    uint32_t tag;
    uint32_t u_offset; /* union, ALTERNATE */
};

extern const struct qapi_type qapi_type_null, qapi_type_bool, qapi_type_number,
    qapi_type_str, qapi_type_any, qapi_type_int, qapi_type_size, qapi_type_int8,
    qapi_type_int16, qapi_type_int32, qapi_type_int64, qapi_type_uint8,
    qapi_type_uint16, qapi_type_uint32, qapi_type_uint64;

/* ---- decoding ---- */

/* The value of `json` as a type that has a C struct (struct, union, alternate,
 * list): free with qapi_free() or the typed wrapper. Strict: a key that the
 * type does not know, a missing one, another JSON type than the schema's or a
 * number out of range is refused, naming the place: "Parameter 'file.locking'
 * does not accept value 'x'". The caller keeps `json`. */
void *qapi_decode(const struct qapi_type *type, struct json_object *json,
                  GError **error);
/* As qapi_decode(), and NULL means {}: the arguments of a command. */
void *qapi_decode_args(const struct qapi_type *type, struct json_object *json,
                       GError **error);
/* Refuses any member: the arguments of a command that has none. */
bool qapi_decode_nothing(struct json_object *json, GError **error);
/* As qapi_decode(), for trees that people typed: scalars may be strings
 * ("on", "off", "yes", "no", "true", "false"; "64k" for sizes), a list may be
 * an object with the keys "0", "1", ..., and "" stands for null where an
 * alternate takes null. */
void *qapi_decode_keyval(const struct qapi_type *type, struct json_object *json,
                         GError **error);

/* ---- encoding, copying, freeing ---- */

/* A new tree; absent members are left out. The caller owns it. value points to
 * the C type: a struct, or a scalar (for str: a char **). */
struct json_object *qapi_encode(const struct qapi_type *type,
                                const void *value);
/* Compact JSON text of qapi_encode(); g_free() it. */
char *qapi_encode_text(const struct qapi_type *type, const void *value);
/* Deep copy; NULL for NULL. */
void *qapi_clone(const struct qapi_type *type, const void *value);
/* NULL is allowed. */
void qapi_free(const struct qapi_type *type, void *value);
/* As qapi_free() of the value that the pointer at `at` points to. */
void qapi_free_at(const struct qapi_type *type, void *at);
/* Frees what the value points to, and zeroes it; not the value itself. */
void qapi_clear(const struct qapi_type *type, void *value);

/* Adds to found every string (not a copy) that a value of the alternate's type
 * holds, anywhere in value. */
void qapi_alternate_strings(const struct qapi_type *type, const void *value,
                            const struct qapi_type *alternate,
                            GPtrArray *found);

/* The value's name, or NULL if out of range; the value of a name, or -1. */
const char *qapi_enum_str(const struct qapi_type *type, unsigned value);
int qapi_enum_parse(const struct qapi_type *type, const char *text);

/* For each struct foo the generator declares:
 *   extern const struct qapi_type qapi_type_foo;
 *   void foo_free(struct foo *);
 *   struct foo *foo_clone(const struct foo *);
 *   struct foo *foo_decode(struct json_object *, GError **);
 * and `qapi_auto(foo) x = ...;` frees x at the end of its scope
 * (g_steal_pointer(&x) keeps it). */
#define QAPI_DECLARE(name)                                                 \
    extern const struct qapi_type qapi_type_##name;                        \
    static inline void name##_free(struct name *value)                     \
    {                                                                      \
        qapi_free(&qapi_type_##name, value);                               \
    }                                                                      \
    static inline struct name *name##_clone(const struct name *value)      \
    {                                                                      \
        return (struct name *)qapi_clone(&qapi_type_##name, value);        \
    }                                                                      \
    static inline struct name *name##_decode(struct json_object *json,     \
                                             GError **error)               \
    {                                                                      \
        return (struct name *)qapi_decode(&qapi_type_##name, json, error); \
    }                                                                      \
    static inline void name##_free_at(struct name **value)                 \
    {                                                                      \
        qapi_free_at(&qapi_type_##name, value);                            \
    }

#define qapi_auto(name) __attribute__((cleanup(name##_free_at))) struct name *

/* ---- events ---- */
struct qapi_event_info {
    const char *name;
    const struct qapi_type *data; /* NULL: no data */
};
struct json_object *qapi_event_build(const struct qapi_event_info *event,
                                     const void *data);

#endif
