/*
 * The lines of qemu-img info that only a format knows.
 */
#include "tools/common/image_info.h"

#include <glib.h>
#include <json-c/json.h>

#include "qapi/codec.h"

/* In the order of qemu-img; what is not here comes after it. */
static const char *const first_keys[] = {
    "compat",
    "compression-type",
    "lazy-refcounts",
    "refcount-bits",
    "corrupt",
    "extended-l2",
    NULL,
};

static void print_member(FILE *out, const char *key, struct json_object *value)
{
    g_autofree char *label = g_strdelimit(g_strdup(key), "-", ' ');
    fprintf(out, "    %s: %s\n", label, json_object_get_string(value));
}

void tool_print_specific(FILE *out, const struct image_info_specific *specific)
{
    if (!specific || specific->type != IMAGE_INFO_SPECIFIC_KIND_QCOW2) {
        return;
    }
    struct json_object *tree =
        qapi_encode(&qapi_type_image_info_specific, specific);
    struct json_object *data;

    fprintf(out, "Format specific information:\n");
    if (json_object_object_get_ex(tree, "data", &data)) {
        struct json_object *member;
        for (size_t i = 0; first_keys[i]; i++) {
            if (json_object_object_get_ex(data, first_keys[i], &member)) {
                print_member(out, first_keys[i], member);
            }
        }
        json_object_object_foreach(data, key, value)
        {
            if (!g_strv_contains(first_keys, key)) {
                print_member(out, key, value);
            }
        }
    }
    json_object_put(tree);
}
