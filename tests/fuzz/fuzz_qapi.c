/*
 * Option strings, file names and JSON text from outside, through the decoder
 * and back: nothing crashes or leaks, and what was accepted once is accepted
 * again, with the same meaning. The first byte picks the entry.
 */
#include "qapi/options.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "qapi/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_blockdev(struct blockdev_options *options)
{
    if (!options) {
        return;
    }
    g_autofree char *name = qapi_blockdev_options_to_filename(options);
    struct blockdev_options *copy = blockdev_options_clone(options);
    g_autofree char *copied = qapi_blockdev_options_to_filename(copy);
    g_assert_cmpstr(name, ==, copied);
    blockdev_options_free(copy);

    struct blockdev_options *again = qapi_blockdev_from_filename(name, NULL);
    if (again) { /* what is not UTF-8 does not survive as JSON */
        g_autofree char *third = qapi_blockdev_options_to_filename(again);
        g_assert_cmpstr(name, ==, third);
    }
    blockdev_options_free(again);
    blockdev_options_free(options);
}

static void check_arguments(const struct qapi_type *type, const char *text)
{
    struct json_object *json = qapi_json_parse(text, strlen(text), NULL);
    void *value = json ? qapi_decode(type, json, NULL) : NULL;
    if (value) {
        g_free(qapi_encode_text(type, value));
    }
    qapi_free(type, value);
    json_object_put(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    g_autofree char *text = g_strndup((const char *)data + 1, size - 1);
    switch (data[0] % 5) {
    case 0:
        check_blockdev(qapi_blockdev_options_parse(text, NULL));
        break;
    case 1:
        check_blockdev(qapi_blockdev_from_filename(text, NULL));
        break;
    case 2:
        check_arguments(&qapi_type_transaction_args, text);
        break;
    case 3:
        check_arguments(&qapi_type_block_dirty_bitmap_merge, text);
        break;
    default:
        qapi_free(&qapi_type_blockdev_create_options,
                  qapi_options_parse(&qapi_type_blockdev_create_options, text,
                                     "driver", NULL));
        break;
    }
    return 0;
}
