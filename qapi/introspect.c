/*
 * Picks from the generated schema table what is really there: a walk from the
 * available commands and the events over the types that they name.
 */
#include "qapi/introspect.h"

#include <glib.h>
#include <json-c/json.h>

/* The table has no deeper chains than types nest, but bounds do not depend on
 * the schema's shape: an explicit stack of at most one slot an entry. */
static void mark_reachable(size_t root, bool *marked, size_t *stack)
{
    size_t n = 0;
    marked[root] = true;
    stack[n++] = root;
    while (n) {
        const struct qapi_schema_entry *entry = &qapi_schema[stack[--n]];
        for (size_t i = 0; i < entry->n_refs; i++) {
            size_t ref = entry->refs[i];
            if (!marked[ref]) {
                marked[ref] = true;
                stack[n++] = ref;
            }
        }
    }
}

struct json_object *qapi_introspect(bool (*available)(const char *command,
                                                      void *opaque),
                                    void *opaque)
{
    g_autofree bool *marked = g_new0(bool, qapi_schema_count);
    g_autofree size_t *stack = g_new(size_t, qapi_schema_count);
    struct json_object *array = json_object_new_array();

    for (size_t i = 0; i < qapi_schema_count; i++) {
        const struct qapi_schema_entry *entry = &qapi_schema[i];
        if (entry->event ||
            (entry->command && available(entry->command, opaque))) {
            mark_reachable(i, marked, stack);
        }
    }
    for (size_t i = 0; i < qapi_schema_count; i++) {
        if (marked[i]) {
            json_object_array_add(array,
                                  json_tokener_parse(qapi_schema[i].json));
        }
    }
    return array;
}
