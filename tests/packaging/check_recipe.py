# SPDX-License-Identifier: Apache-2.0
"""conanfile.py against CMake, without Conan: the version, the names of package and target, what it
requires, what it exports, and the install tree that its package() expects.

Usage: check_recipe.py <CMake's version> <install prefix>"""
import importlib.util
import pathlib
import re
import sys
import types

root = pathlib.Path(__file__).resolve().parents[2]
cmake_version, prefix = sys.argv[1], pathlib.Path(sys.argv[2])


def stand_in_for_conan():
    """Modules with the names that the recipe imports; only load() does something."""
    def module(name, **contents):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)

    unused = {name: None for name in ("check_min_cppstd", "CMake", "CMakeDeps", "CMakeToolchain",
                                      "cmake_layout", "copy", "rmdir")}
    module("conan", ConanFile=object)
    module("conan.tools")
    module("conan.tools.build", **unused)
    module("conan.tools.cmake", **unused)
    module("conan.tools.files", **unused, load=lambda _, path: pathlib.Path(path).read_text())


def load_recipe():
    stand_in_for_conan()
    spec = importlib.util.spec_from_file_location("recipe", root / "conanfile.py")
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    recipe = module.MmrecConan()
    recipe.recipe_folder = str(root)
    recipe.settings = types.SimpleNamespace(get_safe=lambda _: "Linux")
    recipe.required, properties = {}, {}

    def require(reference, **_):
        name, versions = reference.split("/")
        recipe.required[name] = re.search(r">=([\d.]+)", versions).group(1)

    recipe.requires = require
    recipe.cpp_info = types.SimpleNamespace(set_property=properties.__setitem__)
    recipe.set_version()
    recipe.requirements()
    recipe.package_info()
    return recipe, properties


def check(what, expected, seen):
    if expected != seen:
        sys.exit(f"conanfile.py and CMake disagree on {what}: expected {expected}, seen {seen}")


recipe, properties = load_recipe()
check("the version", cmake_version, recipe.version)
check("the package", "mmrec", recipe.name)
package_dir = prefix / "share/cmake" / properties["cmake_file_name"]
check("the config file", True, (package_dir / f"{properties['cmake_file_name']}Config.cmake").is_file())
check("the target", True, f"add_library({properties['cmake_target_name']} INTERFACE IMPORTED)"
      in (package_dir / "mmrecTargets.cmake").read_text())
check("the pkg-config name", True,
      (prefix / "share/pkgconfig" / f"{properties['pkg_config_name']}.pc").is_file())

minimum = re.search(r"needs xsimd ([\d.]+) or newer", (root / "cmake/mmrecDependencies.cmake").read_text())
check("what is required", {"xsimd": minimum.group(1)}, recipe.required)

# What is exported is what CMakeLists.txt reads; package() keeps nothing below share/.
exported = [pattern.split("/")[0] for pattern in recipe.exports_sources]
check("what is exported", ["CMakeLists.txt", "LICENSE", "cmake", "include"], sorted(exported))
check("the folders of the install tree", ["include", "share"], sorted(p.name for p in prefix.iterdir()))
check("the installed headers",
      sorted(str(p.relative_to(root / "include")) for p in (root / "include").rglob("*.*h*")),
      sorted(str(p.relative_to(prefix / "include")) for p in (prefix / "include").rglob("*.*h*")))
