/*
 * What a client of a monitor may send: cut into texts, parsed, checked as a
 * request, and printed again. The first byte says in which pieces the bytes
 * arrive; the outcome must not depend on it.
 */
#include "qmp/framer.h"

#include <json-c/json.h>
#include <string.h>

#include "qapi/json.h"
#include "qmp/json_print.h"
#include "qmp/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_text(const GString *text, GString *out)
{
    GError *error = NULL;
    struct json_object *json =
        text->str[0] == '{' ? qapi_json_parse(text->str, text->len, &error)
                            : json_object_new_array();
    g_assert(!json == !!error);
    if (json) {
        /* What we print we can read, and print again alike. */
        g_autoptr(GString) first = g_string_new(NULL);
        g_autoptr(GString) second = g_string_new(NULL);
        json_print(first, json, false);
        struct json_object *again = json_tokener_parse(first->str);
        json_print(second, again, false);
        g_assert_cmpstr(first->str, ==, second->str);
        json_object_put(again);
        g_string_append(out, first->str);
    }
    struct request *r = request_new(json, error, REQUEST_OOB);
    g_assert(!r->command == !!r->error);
    g_string_append_printf(out, "%s\n",
                           r->error ? r->error->message : r->command);
    request_free(r);
}

static char *outcome(const char *data, size_t size, size_t piece)
{
    GString *out = g_string_new(NULL);
    struct framer f;

    framer_init(&f);
    for (size_t at = 0; at < size;) {
        g_autoptr(GError) error = NULL;
        size_t used = 0;
        switch (
            framer_feed(&f, data + at, MIN(piece, size - at), &used, &error)) {
        case FRAMER_TEXT:
            take_text(f.text, out);
            break;
        case FRAMER_ERROR:
            g_string_append_printf(out, "! %s\n", error->message);
            break;
        case FRAMER_MORE:
            g_assert(used > 0);
        }
        at += used;
    }
    framer_clear(&f);
    return g_string_free(out, FALSE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    const char *text = (const char *)data + 1;
    g_autofree char *whole = outcome(text, size - 1, size);
    g_autofree char *pieces = outcome(text, size - 1, 1 + data[0] % 16);
    g_assert_cmpstr(whole, ==, pieces);
    return 0;
}
