/*
 * The two halves of the decoder: scalars and error texts on one side, the shape
 * of lists, structs and alternates on the other. Private to qapi/.
 */
#ifndef VARVE_QAPI_DECODE_H
#define VARVE_QAPI_DECODE_H

#include "qapi/codec.h"

/* Where we are: a member name, or an index into a list. */
struct place {
    const struct place *up;
    const char *name; /* NULL: an index */
    size_t index;
};

struct decoder {
    bool keyval; /* scalars may be strings */
    unsigned depth;
    GError **error;
};

/* Each sets *d->error, and returns false. `at` NULL is the whole tree. */
bool qapi_fail_type(struct decoder *d, const struct place *at,
                    const char *expected);
bool qapi_fail_expects(struct decoder *d, const struct place *at,
                       const char *expected);
/* before, the path in quotes, after, more (may be NULL). */
bool qapi_fail(struct decoder *d, const struct place *at, const char *before,
               const char *after, const char *more);

/* Each stores into a slot of its C type, or fails. json may be NULL: null. */
bool qapi_decode_bool(struct decoder *d, struct json_object *json, void *slot,
                      const struct place *at);
bool qapi_decode_int(struct decoder *d, const struct qapi_type *type,
                     struct json_object *json, void *slot,
                     const struct place *at);
bool qapi_decode_number(struct decoder *d, struct json_object *json, void *slot,
                        const struct place *at);
bool qapi_decode_str(struct decoder *d, struct json_object *json, void *slot,
                     const struct place *at);
bool qapi_decode_enum(struct decoder *d, const struct qapi_type *type,
                      struct json_object *json, void *slot,
                      const struct place *at);

#endif
