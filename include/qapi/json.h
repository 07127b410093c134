/*
 * Strict reading of a complete JSON text that came from outside.
 *
 * json-c forgives much; on top of it a text is refused that names a key twice
 * in one object, holds an integer that fits neither int64 nor uint64, nests
 * deeper than QAPI_MAX_DEPTH, or has comments or trailing text. Strings may be
 * in single quotes, as QEMU accepts them in file names and monitor input.
 */
#ifndef VARVE_QAPI_JSON_H
#define VARVE_QAPI_JSON_H

#include <glib.h>
#include <stdbool.h>

struct json_object;

/* NULL and *error ("JSON parse error, ...") if malformed; the text "null" is
 * refused too, as json-c has no object for it. The caller owns the result.
 * text need not end in a zero byte. Any loop; does not suspend. */
struct json_object *qapi_json_parse(const char *text, size_t length,
                                    GError **error);

/* What json-c does not see, for a reader that feeds json-c piecemeal: `json` is
 * what it made of the whole of text. */
bool qapi_json_check(const char *text, size_t length, struct json_object *json,
                     GError **error);

#endif
