/*
 * What only a format knows of an image, as lines for people. Any loop.
 */
#include "qapi/image_text.h"

#include <glib.h>
#include <json-c/json.h>

#include "qapi/codec.h"

/* In the order of qemu-img; what is not here comes after it. */
static const char *const first_keys[] = {
    "compat",         "compression-type",
    "lazy-refcounts", "bitmaps",
    "refcount-bits",  "data-file",
    "data-file-raw",  "corrupt",
    "extended-l2",    NULL,
};

static void print_member(FILE *out, const char *key, struct json_object *value,
                         unsigned depth);

static void print_list(FILE *out, struct json_object *list, unsigned depth)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        g_autofree char *key = g_strdup_printf("[%zu]", i);
        print_member(out, key, json_object_array_get_idx(list, i), depth);
    }
}

static void print_object(FILE *out, struct json_object *object, unsigned depth)
{
    /* As qemu-img has it: the flags of a bitmap stand before its name. */
    static const char *const first[] = {"flags", NULL};
    struct json_object *member;

    if (json_object_object_get_ex(object, first[0], &member)) {
        print_member(out, first[0], member, depth);
    }
    json_object_object_foreach(object, key, value)
    {
        if (!g_strv_contains(first, key)) {
            print_member(out, key, value, depth);
        }
    }
}

static void print_member(FILE *out, const char *key, struct json_object *value,
                         unsigned depth)
{
    g_autofree char *label = g_strdelimit(g_strdup(key), "-", ' ');

    fprintf(out, "%*s%s:", (int)depth * 4, "", label);
    if (json_object_is_type(value, json_type_array)) {
        fprintf(out, "\n");
        print_list(out, value, depth + 1);
    } else if (json_object_is_type(value, json_type_object)) {
        fprintf(out, "\n");
        print_object(out, value, depth + 1);
    } else {
        fprintf(out, " %s\n", json_object_get_string(value));
    }
}

void qapi_print_image_specific(FILE *out,
                               const struct image_info_specific *specific)
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
                print_member(out, first_keys[i], member, 1);
            }
        }
        json_object_object_foreach(data, key, value)
        {
            if (!g_strv_contains(first_keys, key)) {
                print_member(out, key, value, 1);
            }
        }
    }
    json_object_put(tree);
}
