/*
 * json-c trees to C structs, by the tables of the schema.
 *
 * A value is decoded in place, into zeroed memory; when something is wrong the
 * whole is freed, which a half-filled struct allows at any point. Error texts
 * name the full path of the offending member. The path is a chain of frames on
 * the stack and becomes text only when there is an error to tell. Recursion is
 * bounded by QAPI_MAX_DEPTH. Runs on any loop; never suspends.
 */
#include "qapi/codec.h"

#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qapi/value.h"
#include "util/error.h"
#include "util/keyval.h"

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

static bool decode_slot(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *slot,
                        const struct place *at);
static bool decode_value(struct decoder *d, const struct qapi_type *type,
                         struct json_object *json, void *value,
                         const struct place *at);

/* ---- errors ---- */

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

/* fmt has one %s for the path and, if more is not NULL, one for more. */
static bool fail(struct decoder *d, const struct place *at, const char *before,
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

static bool fail_type(struct decoder *d, const struct place *at,
                      const char *expected)
{
    return fail(d, at, "Invalid parameter type for ", ", expected: ", expected);
}

static bool fail_expects(struct decoder *d, const struct place *at,
                         const char *expected)
{
    return fail(d, at, "Parameter ", " expects ", expected);
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
        fail(d, at, "Parameter ", " contains a NUL character", NULL);
        return NULL;
    }
    return text;
}

/* ---- scalars ---- */

static bool decode_bool(struct decoder *d, struct json_object *json, void *slot,
                        const struct place *at)
{
    bool *value = slot;
    if (json_object_is_type(json, json_type_boolean)) {
        *value = json_object_get_boolean(json);
        return true;
    }
    if (!d->keyval || !is_string(json)) {
        return fail_type(d, at, "boolean");
    }
    static const char *const on[] = {"on", "yes", "true", "y"};
    static const char *const off[] = {"off", "no", "false", "n"};
    const char *text = json_object_get_string(json);
    for (size_t i = 0; i < G_N_ELEMENTS(on); i++) {
        if (!strcmp(text, on[i])) {
            *value = true;
            return true;
        }
        if (!strcmp(text, off[i])) {
            *value = false;
            return true;
        }
    }
    return fail_expects(d, at, "'on' or 'off'");
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
        return fail_expects(d, at, type->is_bytes ? "a size" : "integer");
    }
    return type->is_signed ? fail_type(d, at, "integer")
                           : fail_expects(d, at, "uint64");
}

/* A number as typed: C syntax with 0x, or a size with a suffix. */
static bool read_typed_int(const struct qapi_type *type, const char *text,
                           bool *negative, uint64_t *magnitude)
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
    return type->is_bytes && !*negative &&
           keyval_parse_size(text, magnitude, NULL);
}

static bool decode_int(struct decoder *d, const struct qapi_type *type,
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
               !read_typed_int(type, json_object_get_string(json), &negative,
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
        return fail_expects(d, at, int_name(type));
    }
    store_int(type, negative ? -magnitude : magnitude, slot);
    return true;
}

static bool decode_number(struct decoder *d, struct json_object *json,
                          void *slot, const struct place *at)
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
            return fail_expects(d, at, "number");
        }
    } else {
        return fail_type(d, at, "number");
    }
    if (!isfinite(value)) {
        return fail_expects(d, at, "a finite number");
    }
    *(double *)slot = value;
    return true;
}

static bool decode_str(struct decoder *d, struct json_object *json, void *slot,
                       const struct place *at)
{
    if (!is_string(json)) {
        return fail_type(d, at, "string");
    }
    const char *text = string_of(d, json, at);
    if (!text) {
        return false;
    }
    *(char **)slot = g_strdup(text);
    return true;
}

static bool decode_enum(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *slot,
                        const struct place *at)
{
    if (!is_string(json)) {
        return fail_type(d, at, "string");
    }
    const char *text = string_of(d, json, at);
    if (!text) {
        return false;
    }
    int found = qapi_enum_parse(type, text);
    if (found < 0) {
        g_autofree char *value = g_strdup_printf("'%s'", text);
        return fail(d, at, "Parameter ", " does not accept value ", value);
    }
    *(unsigned *)slot = (unsigned)found;
    return true;
}

/* ---- lists ---- */

/* The item of a list: an array's, or of {"0": .., "1": ..} as typed. */
static bool list_item(struct json_object *json, size_t index,
                      struct json_object **item)
{
    if (json_object_is_type(json, json_type_array)) {
        *item = json_object_array_get_idx(json, index);
        return true;
    }
    char key[24];
    g_snprintf(key, sizeof(key), "%zu", index);
    return json_object_object_get_ex(json, key, item);
}

static bool decode_list(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *value,
                        const struct place *at)
{
    struct qapi_any_list *list = value;
    size_t item_size = qapi_slot_size(type->element);
    size_t n;

    if (json_object_is_type(json, json_type_array)) {
        n = json_object_array_length(json);
    } else if (d->keyval && json_object_is_type(json, json_type_object)) {
        n = (size_t)json_object_object_length(json);
    } else {
        return fail_type(d, at, "array");
    }
    list->items = n ? g_malloc0_n(n, item_size) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct place here = {.up = at, .index = i};
        struct json_object *item;
        if (!list_item(json, i, &item)) {
            return fail(d, &here, "Parameter ", " missing", NULL);
        }
        /* Counted first: a half-decoded item is freed with the list. */
        list->n = i + 1;
        if (!decode_slot(d, type->element, item, list->items + i * item_size,
                         &here)) {
            return false;
        }
    }
    return true;
}

/* ---- structs, unions, alternates ---- */

static bool decode_members(struct decoder *d, const struct qapi_type *type,
                           struct json_object *json, char *value, size_t *found,
                           const struct place *at)
{
    for (uint32_t i = 0; i < type->n; i++) {
        const struct qapi_member *member = &type->members[i];
        struct place here = {.up = at, .name = member->name};
        struct json_object *json_member;
        if (!json_object_object_get_ex(json, member->name, &json_member)) {
            if (!member->optional) {
                return fail(d, &here, "Parameter ", " is missing", NULL);
            }
            continue;
        }
        ++*found;
        if (member->has_flag) {
            *(bool *)(value + member->has_offset) = true;
        }
        if (!decode_slot(d, member->type, json_member, value + member->offset,
                         &here)) {
            return false;
        }
    }
    const struct qapi_type *branch = qapi_union_branch(type, value);
    return !branch ||
           decode_members(d, branch, json, value + type->u_offset, found, at);
}

static bool is_member(const struct qapi_type *type, const void *value,
                      const char *name)
{
    for (uint32_t i = 0; i < type->n; i++) {
        if (!strcmp(type->members[i].name, name)) {
            return true;
        }
    }
    const struct qapi_type *branch = qapi_union_branch(type, value);
    return branch &&
           is_member(branch, (const char *)value + type->u_offset, name);
}

static bool decode_struct(struct decoder *d, const struct qapi_type *type,
                          struct json_object *json, void *value,
                          const struct place *at)
{
    size_t found = 0;
    if (!json_object_is_type(json, json_type_object)) {
        return fail_type(d, at, "object");
    }
    if (!decode_members(d, type, json, value, &found, at)) {
        return false;
    }
    if (found == (size_t)json_object_object_length(json)) {
        return true;
    }
    json_object_object_foreach(json, key, unused)
    {
        struct place here = {.up = at, .name = key};
        (void)unused;
        if (!is_member(type, value, key)) {
            return fail(d, &here, "Parameter ", " is unexpected", NULL);
        }
    }
    return true;
}

/* The member of an alternate that a JSON value is meant for, or NULL. */
static const struct qapi_type *choose(struct decoder *d,
                                      const struct qapi_type *type,
                                      struct json_object *json,
                                      enum qapi_kind *kind)
{
    static const enum qapi_kind kinds[] = {
        [json_type_null] = QAPI_KIND_NULL,
        [json_type_boolean] = QAPI_KIND_BOOL,
        [json_type_double] = QAPI_KIND_NUMBER,
        [json_type_int] = QAPI_KIND_INT,
        [json_type_object] = QAPI_KIND_OBJECT,
        [json_type_array] = QAPI_KIND_ARRAY,
        [json_type_string] = QAPI_KIND_STRING,
    };
    /* What a typed string may stand for, the first that the type has. */
    static const enum qapi_kind typed[] = {QAPI_KIND_STRING, QAPI_KIND_BOOL,
                                           QAPI_KIND_INT, QAPI_KIND_NUMBER};
    const struct qapi_type *chosen;

    *kind = kinds[json_object_get_type(json)];
    if (d->keyval && *kind == QAPI_KIND_STRING) {
        if (json_object_get_string_len(json) == 0 &&
            qapi_alternate_type(type, QAPI_KIND_NULL)) {
            *kind = QAPI_KIND_NULL;
            return &qapi_type_null;
        }
        for (size_t i = 0; i < G_N_ELEMENTS(typed); i++) {
            chosen = qapi_alternate_type(type, typed[i]);
            if (chosen) {
                *kind = typed[i];
                return chosen;
            }
        }
    }
    chosen = qapi_alternate_type(type, *kind);
    if (!chosen && *kind == QAPI_KIND_INT) {
        *kind = QAPI_KIND_NUMBER;
        chosen = qapi_alternate_type(type, *kind);
    }
    return chosen;
}

static bool decode_alternate(struct decoder *d, const struct qapi_type *type,
                             struct json_object *json, void *value,
                             const struct place *at)
{
    enum qapi_kind kind;
    const struct qapi_type *chosen = choose(d, type, json, &kind);
    char *u = (char *)value + type->u_offset;

    if (!chosen) {
        return fail_type(d, at, type->name);
    }
    *(enum qapi_kind *)value = kind;
    if (chosen->meta == QAPI_META_NULL) {
        return true;
    }
    return chosen->meta == QAPI_META_STRUCT
               ? decode_value(d, chosen, json, u, at)
               : decode_slot(d, chosen, json, u, at);
}

/* value points to the C type itself: struct, alternate or list. */
static bool decode_value(struct decoder *d, const struct qapi_type *type,
                         struct json_object *json, void *value,
                         const struct place *at)
{
    bool ok;
    if (d->depth == QAPI_MAX_DEPTH) {
        return fail(d, at, "Parameter ", " is nested too deep", NULL);
    }
    d->depth++;
    switch (type->meta) {
    case QAPI_META_STRUCT:
        ok = decode_struct(d, type, json, value, at);
        break;
    case QAPI_META_ALTERNATE:
        ok = decode_alternate(d, type, json, value, at);
        break;
    default:
        ok = decode_list(d, type, json, value, at);
        break;
    }
    d->depth--;
    return ok;
}

static bool decode_slot(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *slot,
                        const struct place *at)
{
    switch (type->meta) {
    case QAPI_META_BOOL:
        return decode_bool(d, json, slot, at);
    case QAPI_META_INT:
        return decode_int(d, type, json, slot, at);
    case QAPI_META_NUMBER:
        return decode_number(d, json, slot, at);
    case QAPI_META_STR:
        return decode_str(d, json, slot, at);
    case QAPI_META_ENUM:
        return decode_enum(d, type, json, slot, at);
    case QAPI_META_ANY:
        *(struct json_object **)slot = json_object_get(json);
        return true;
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE:
        *(void **)slot = g_malloc0(type->size);
        return decode_value(d, type, json, *(void **)slot, at);
    case QAPI_META_LIST:
        return decode_value(d, type, json, slot, at);
    case QAPI_META_NULL:
        break;
    }
    return json ? fail_type(d, at, "null") : true;
}

/* ---- entry points ---- */

static void *decode(const struct qapi_type *type, struct json_object *json,
                    bool keyval, GError **error)
{
    struct decoder d = {.keyval = keyval, .error = error};
    void *value = g_malloc0(type->size);
    if (!decode_value(&d, type, json, value, NULL)) {
        qapi_free(type, value);
        return NULL;
    }
    return value;
}

void *qapi_decode(const struct qapi_type *type, struct json_object *json,
                  GError **error)
{
    return decode(type, json, false, error);
}

void *qapi_decode_keyval(const struct qapi_type *type, struct json_object *json,
                         GError **error)
{
    return decode(type, json, true, error);
}

void *qapi_decode_args(const struct qapi_type *type, struct json_object *json,
                       GError **error)
{
    if (json) {
        return qapi_decode(type, json, error);
    }
    struct json_object *nothing = json_object_new_object();
    void *value = qapi_decode(type, nothing, error);
    json_object_put(nothing);
    return value;
}

bool qapi_decode_nothing(struct json_object *json, GError **error)
{
    static const struct qapi_type nothing = {
        .name = "nothing", .meta = QAPI_META_STRUCT, .size = 1};
    struct decoder d = {.error = error};
    char unused = 0;
    return !json || decode_value(&d, &nothing, json, &unused, NULL);
}
