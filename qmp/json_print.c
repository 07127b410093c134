/*
 * Prints straight into a monitor's output buffer. Pure; any loop.
 */
#include "json_print.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

static void print_escaped(GString *out, gunichar c)
{
    if (c > 0xffff) {
        c -= 0x10000;
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xd800 | c >> 10,
                               0xdc00 | (c & 0x3ff));
    } else {
        g_string_append_printf(out, "\\u%04X", c);
    }
}

static void print_special(GString *out, unsigned char c)
{
    static const char names[] = "b\bf\fn\nr\rt\t\"\"\\\\";

    for (const char *name = names; *name; name += 2) {
        if (name[1] == (char)c) {
            g_string_append_c(out, '\\');
            g_string_append_c(out, name[0]);
            return;
        }
    }
    print_escaped(out, c);
}

void json_print_string(GString *out, const char *text, size_t length)
{
    const char *end = text + length;
    const char *run = text;

    g_string_append_c(out, '"');
    while (text < end) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            text++;
            continue;
        }
        g_string_append_len(out, run, text - run);
        if (c < 0x80) {
            print_special(out, c);
            text++;
        } else {
            gunichar u = g_utf8_get_char_validated(text, end - text);
            bool valid = u != (gunichar)-1 && u != (gunichar)-2;
            print_escaped(out, valid ? u : 0xfffd);
            text += valid ? g_utf8_skip[c] : 1;
        }
        run = text;
    }
    g_string_append_len(out, run, text - run);
    g_string_append_c(out, '"');
}

/* indent < 0: on one line. */
static void new_line(GString *out, int indent)
{
    if (indent >= 0) {
        g_string_append_printf(out, "\n%*s", indent * 4, "");
    }
}

static void print(GString *out, struct json_object *json, int indent);

static void print_object(GString *out, struct json_object *json, int indent)
{
    int inner = indent < 0 ? -1 : indent + 1;
    bool first = true;

    g_string_append_c(out, '{');
    json_object_object_foreach(json, key, value)
    {
        if (!first) {
            g_string_append(out, inner < 0 ? ", " : ",");
        }
        first = false;
        new_line(out, inner);
        json_print_string(out, key, strlen(key));
        g_string_append(out, ": ");
        print(out, value, inner);
    }
    if (!first) {
        new_line(out, indent);
    }
    g_string_append_c(out, '}');
}

static void print_array(GString *out, struct json_object *json, int indent)
{
    int inner = indent < 0 ? -1 : indent + 1;
    size_t n = json_object_array_length(json);

    g_string_append_c(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) {
            g_string_append(out, inner < 0 ? ", " : ",");
        }
        new_line(out, inner);
        print(out, json_object_array_get_idx(json, i), inner);
    }
    if (n) {
        new_line(out, indent);
    }
    g_string_append_c(out, ']');
}

static void print_int(GString *out, struct json_object *json)
{
    int64_t value = json_object_get_int64(json);

    /* Only a large uint64 saturates. */
    if (value == INT64_MAX) {
        g_string_append_printf(out, "%" PRIu64, json_object_get_uint64(json));
    } else {
        g_string_append_printf(out, "%" PRId64, value);
    }
}

static void print(GString *out, struct json_object *json, int indent)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    switch (json_object_get_type(json)) {
    case json_type_null:
        g_string_append(out, "null");
        break;
    case json_type_boolean:
        g_string_append(out, json_object_get_boolean(json) ? "true" : "false");
        break;
    case json_type_double:
        g_string_append(out, g_ascii_formatd(number, sizeof(number), "%.17g",
                                             json_object_get_double(json)));
        break;
    case json_type_int:
        print_int(out, json);
        break;
    case json_type_object:
        print_object(out, json, indent);
        break;
    case json_type_array:
        print_array(out, json, indent);
        break;
    case json_type_string:
        json_print_string(out, json_object_get_string(json),
                          (size_t)json_object_get_string_len(json));
        break;
    }
}

void json_print(GString *out, struct json_object *json, bool pretty)
{
    print(out, json, pretty ? 0 : -1);
}
