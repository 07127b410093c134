/*
 * JSON text in the form that QMP clients have always seen.
 */
#ifndef VARVE_QMP_JSON_PRINT_H
#define VARVE_QMP_JSON_PRINT_H

#include <glib.h>
#include <stdbool.h>

struct json_object;

/* Appends json (NULL is null) on one line, `{"a": 1, "b": [2, 3]}`, or, if
 * pretty, indented by four spaces a level. ASCII only: the rest is escaped, and
 * what is no UTF-8 becomes U+FFFD, so that a file name cannot break a session.
 */
void json_print(GString *out, struct json_object *json, bool pretty);
/* Appends a string in quotes, escaped. */
void json_print_string(GString *out, const char *text, size_t length);

#endif
