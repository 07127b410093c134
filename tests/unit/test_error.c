/*
 * util/error: classes, messages, and callers that want no message.
 */
#include "util/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

static void set_returns_false_and_formats(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_false(error_set(&error, "Node '%s' has %d parents", "n0", 2));
    assert_string_equal(error->message, "Node 'n0' has 2 parents");
    assert_true(g_error_matches(error, VARVE_ERROR, ERROR_GENERIC));
    assert_string_equal(error_class_str(error), "GenericError");
}

static void no_error_wanted_is_fine(void **state)
{
    assert_false(error_set(NULL, "%s", "x"));
    assert_false(error_set_class(NULL, ERROR_DEVICE_NOT_FOUND, "%s", "x"));
    assert_false(error_set_errno(NULL, EIO, "%s", "x"));
}

static void classes_have_the_names_of_qmp(void **state)
{
    static const struct {
        enum error_class cls;
        const char *name;
    } rows[] = {
        {ERROR_GENERIC, "GenericError"},
        {ERROR_COMMAND_NOT_FOUND, "CommandNotFound"},
        {ERROR_DEVICE_NOT_ACTIVE, "DeviceNotActive"},
        {ERROR_DEVICE_NOT_FOUND, "DeviceNotFound"},
        {ERROR_KVM_MISSING_CAP, "KVMMissingCap"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        assert_false(error_set_class(&error, rows[i].cls, "no %s", "luck"));
        assert_string_equal(error_class_str(error), rows[i].name);
        assert_string_equal(error->message, "no luck");
    }
}

static void hint_is_not_part_of_the_description(void **state)
{
    g_autoptr(GError) error = NULL;

    error_set_class(&error, ERROR_DEVICE_NOT_FOUND, "no 'a\nb'");
    assert_int_equal(error_desc_length(error), strlen("no 'a\nb'"));
    error_add_hint(&error, "Is there %s?", "c");
    assert_string_equal(error->message, "no 'a\nb'\nIs there c?");
    assert_int_equal(error_desc_length(error), strlen("no 'a\nb'"));
    assert_string_equal(error_class_str(error), "DeviceNotFound");
    error_add_hint(NULL, "nobody listens");
}

static void foreign_errors_are_generic(void **state)
{
    g_autoptr(GError) io =
        g_error_new(G_FILE_ERROR, G_FILE_ERROR_ACCES, "denied");
    g_autoptr(GError) odd = g_error_new(VARVE_ERROR, 99, "odd");
    g_autoptr(GError) negative = g_error_new(VARVE_ERROR, -1, "odd");

    assert_string_equal(error_class_str(io), "GenericError");
    assert_string_equal(error_class_str(odd), "GenericError");
    assert_string_equal(error_class_str(negative), "GenericError");
}

static void errno_text_follows_the_message_for_either_sign(void **state)
{
    g_autofree char *expect =
        g_strdup_printf("Could not open 'a%%b': %s", strerror(ENOENT));

    for (int sign = -1; sign <= 1; sign += 2) {
        g_autoptr(GError) error = NULL;
        assert_false(error_set_errno(&error, sign * ENOENT,
                                     "Could not open '%s'", "a%b"));
        assert_string_equal(error->message, expect);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_returns_false_and_formats),
        cmocka_unit_test(no_error_wanted_is_fine),
        cmocka_unit_test(classes_have_the_names_of_qmp),
        cmocka_unit_test(hint_is_not_part_of_the_description),
        cmocka_unit_test(foreign_errors_are_generic),
        cmocka_unit_test(errno_text_follows_the_message_for_either_sign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
