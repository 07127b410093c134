/*
 * json-c with the doors shut that it leaves open. A second pass over the text
 * counts keys and looks at integers: if the tree has fewer keys than the text,
 * one was there twice. Any loop; never suspends.
 */
#include "qapi/json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "qapi/codec.h"
#include "util/error.h"

static size_t count_keys(struct json_object *json)
{
    size_t keys = 0;
    if (json_object_is_type(json, json_type_object)) {
        json_object_object_foreach(json, key, value)
        {
            (void)key;
            keys += 1 + count_keys(value);
        }
    } else if (json_object_is_type(json, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(json); i++) {
            keys += count_keys(json_object_array_get_idx(json, i));
        }
    }
    return keys;
}

/* Past the string that opens at text[i]. */
static size_t skip_string(const char *text, size_t length, size_t i)
{
    char quote = text[i++];
    while (i < length && text[i] != quote) {
        i += text[i] == '\\' ? 2 : 1;
    }
    return i + 1;
}

static bool integer_fits(const char *text, size_t length)
{
    char digits[24];
    if (memchr(text, '.', length) || memchr(text, 'e', length) ||
        memchr(text, 'E', length)) {
        return true;
    }
    if (length >= sizeof(digits)) {
        return false;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    errno = 0;
    if (text[0] == '-') {
        strtoll(digits, NULL, 10);
    } else {
        strtoull(digits, NULL, 10);
    }
    return errno == 0;
}

bool qapi_json_check(const char *text, size_t length, struct json_object *json,
                     GError **error)
{
    static const char number[] = "+-.0123456789eE";
    size_t keys = 0;
    size_t i = 0;
    while (i < length) {
        char c = text[i];
        if (c == '"' || c == '\'') {
            i = skip_string(text, length, i);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            size_t start = i;
            while (i < length && text[i] && strchr(number, text[i])) {
                i++;
            }
            if (!integer_fits(text + start, i - start)) {
                return error_set(error,
                                 "JSON parse error, number out of range");
            }
        } else if (c == '/') {
            return error_set(error, "JSON parse error, comment");
        } else {
            keys += c == ':';
            i++;
        }
    }
    if (keys != count_keys(json)) {
        return error_set(error, "JSON parse error, duplicate key");
    }
    return true;
}

struct json_object *qapi_json_parse(const char *text, size_t length,
                                    GError **error)
{
    if (length > G_MAXINT) {
        error_set(error, "JSON parse error, text too long");
        return NULL;
    }
    struct json_tokener *tokener = json_tokener_new_ex(QAPI_MAX_DEPTH);
    json_tokener_set_flags(tokener, JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *json =
        json_tokener_parse_ex(tokener, text, (int)length);
    enum json_tokener_error status = json_tokener_get_error(tokener);
    size_t end = json_tokener_get_parse_end(tokener);
    json_tokener_free(tokener);

    bool ok = status == json_tokener_success && json;
    if (status == json_tokener_continue) {
        error_set(error, "JSON parse error, premature EOI");
    } else if (!ok) {
        error_set(error, "JSON parse error, %s",
                  status == json_tokener_success
                      ? "no value"
                      : json_tokener_error_desc(status));
    }
    while (ok && end < length && strchr(" \t\r\n", text[end])) {
        end++;
    }
    if (ok && end < length) {
        ok = error_set(error, "JSON parse error, more than one value");
    }
    ok = ok && qapi_json_check(text, length, json, error);
    if (!ok) {
        json_object_put(json);
        return NULL;
    }
    return json;
}
