/*
 * Decoding of scalars, and the error texts of decoding. The texts are those
 * that QEMU's clients know, with the whole path of the member everywhere.
 * Any loop; never suspends.
 */
#include "qapi/decode.h"

#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"
#include "util/keyval.h"

static void append_place(const struct decoder *d, const struct place *at,
                         GString *text)
{
    if (at->up) {
        append_place(d, at->up, text);
    }
    if (at->name) {
        g_string_append_printf(text, "%s%s", text->len ? "." : "", at->name);
    } else if (d->keyval) {
        g_string_append_printf(text, "%s%zu", text->len ? "." : "", at->index);
    } else {
        g_string_append_printf(text, "[%zu]", at->index);
    }
}

bool qapi_fail(struct decoder *d, const struct place *at, const char *before,
               const char *after, const char *more)
{
    g_autoptr(GString) path = g_string_new(NULL);
    if (at) {
        append_place(d, at, path);
    } else {
        g_string_append(path, "arguments");
    }
    return error_set(d->error, "%s'%s'%s%s", before, path->str, after,
                     more ? more : "");
}

bool qapi_fail_type(struct decoder *d, const struct place *at,
                    const char *expected)
{
    return qapi_fail(d, at, "Invalid parameter type for ",
                     ", expected: ", expected);
}

bool qapi_fail_expects(struct decoder *d, const struct place *at,
                       const char *expected)
{
    return qapi_fail(d, at, "Parameter ", " expects ", expected);
}

static bool is_string(struct json_object *json)
{
    return json_object_is_type(json, json_type_string);
}

/* json-c strings may hold a zero byte, C strings may not. */
static const char *string_of(struct decoder *d, struct json_object *json,
                             const struct place *at)
{
    const char *text = json_object_get_string(json);
    if (strlen(text) != (size_t)json_object_get_string_len(json)) {
        qapi_fail(d, at, "Parameter ", " contains a NUL character", NULL);
        return NULL;
    }
    return text;
}

/* ---- scalars ---- */

bool qapi_decode_bool(struct decoder *d, struct json_object *json, void *slot,
                      const struct place *at)
{
    bool *value = slot;
    if (json_object_is_type(json, json_type_boolean)) {
        *value = json_object_get_boolean(json);
        return true;
    }
    if (!d->keyval || !is_string(json)) {
        return qapi_fail_type(d, at, "boolean");
    }
    return keyval_bool(json_object_get_string(json), value) ||
           qapi_fail_expects(d, at, "'on' or 'off'");
}

static const char *int_name(const struct qapi_type *type)
{
    static const char *const names[2][4] = {
        {"uint8_t", "uint16_t", "uint32_t", "uint64"},
        {"int8_t", "int16_t", "int32_t", "int64"},
    };
    return names[type->is_signed][type->bits == 8    ? 0
                                  : type->bits == 16 ? 1
                                  : type->bits == 32 ? 2
                                                     : 3];
}

static void store_int(const struct qapi_type *type, uint64_t bits, void *slot)
{
    switch (type->bits) {
    case 8:
        *(uint8_t *)slot = (uint8_t)bits;
        break;
    case 16:
        *(uint16_t *)slot = (uint16_t)bits;
        break;
    case 32:
        *(uint32_t *)slot = (uint32_t)bits;
        break;
    default:
        *(uint64_t *)slot = bits;
        break;
    }
}

/* Not an integer, or beyond the widest integer of its sign. */
static bool fail_integer(struct decoder *d, const struct qapi_type *type,
                         const struct place *at)
{
    if (d->keyval) {
        return qapi_fail_expects(d, at, type->is_bytes ? "a size" : "integer");
    }
    return type->is_signed ? qapi_fail_type(d, at, "integer")
                           : qapi_fail_expects(d, at, "uint64");
}

/* A number as typed: C syntax with 0x, or with a suffix as sizes have it; the
 * schema calls many a size a plain integer. */
static bool read_typed_int(const char *text, bool *negative,
                           uint64_t *magnitude)
{
    char *end;
    errno = 0;
    *negative = text[0] == '-';
    const char *digits = text + *negative;
    if (*digits < '0' || *digits > '9') {
        return false;
    }
    *magnitude = strtoull(digits, &end, 0);
    if (!errno && !*end) {
        return true;
    }
    return !*negative && keyval_size(text, magnitude) == 0;
}

bool qapi_decode_int(struct decoder *d, const struct qapi_type *type,
                     struct json_object *json, void *slot,
                     const struct place *at)
{
    bool negative;
    uint64_t magnitude;

    if (json_object_is_type(json, json_type_int)) {
        int64_t value = json_object_get_int64(json);
        negative = value < 0;
        magnitude = negative ? -(uint64_t)value : json_object_get_uint64(json);
    } else if (!d->keyval || !is_string(json) ||
               !read_typed_int(json_object_get_string(json), &negative,
                               &magnitude)) {
        return fail_integer(d, type, at);
    }

    uint64_t widest = type->is_signed ? (uint64_t)INT64_MAX : UINT64_MAX;
    if (magnitude > widest + (type->is_signed && negative)) {
        return fail_integer(d, type, at);
    }
    uint64_t max = UINT64_MAX >> (64 - type->bits + type->is_signed);
    uint64_t limit = !negative ? max : type->is_signed ? max + 1 : 0;
    if (magnitude > limit) {
        return qapi_fail_expects(d, at, int_name(type));
    }
    store_int(type, negative ? -magnitude : magnitude, slot);
    return true;
}

bool qapi_decode_number(struct decoder *d, struct json_object *json, void *slot,
                        const struct place *at)
{
    double value;
    if (json_object_is_type(json, json_type_double) ||
        json_object_is_type(json, json_type_int)) {
        value = json_object_get_double(json);
    } else if (d->keyval && is_string(json)) {
        char *end;
        const char *text = json_object_get_string(json);
        value = g_ascii_strtod(text, &end);
        if (end == text || *end) {
            return qapi_fail_expects(d, at, "number");
        }
    } else {
        return qapi_fail_type(d, at, "number");
    }
    if (!isfinite(value)) {
        return qapi_fail_expects(d, at, "a finite number");
    }
    *(double *)slot = value;
    return true;
}

bool qapi_decode_str(struct decoder *d, struct json_object *json, void *slot,
                     const struct place *at)
{
    if (!is_string(json)) {
        return qapi_fail_type(d, at, "string");
    }
    const char *text = string_of(d, json, at);
    if (!text) {
        return false;
    }
    *(char **)slot = g_strdup(text);
    return true;
}

bool qapi_decode_enum(struct decoder *d, const struct qapi_type *type,
                      struct json_object *json, void *slot,
                      const struct place *at)
{
    if (!is_string(json)) {
        return qapi_fail_type(d, at, "string");
    }
    const char *text = string_of(d, json, at);
    if (!text) {
        return false;
    }
    int found = qapi_enum_parse(type, text);
    if (found < 0) {
        g_autofree char *value = g_strdup_printf("'%s'", text);
        return qapi_fail(d, at, "Parameter ", " does not accept value ", value);
    }
    *(unsigned *)slot = (unsigned)found;
    return true;
}
