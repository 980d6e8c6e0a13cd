// The run-time compiler: CUDA C++ is translated to C++ and compiled by g++ to a shared library, which stands for a cubin.
//
// The translation is textual, after the preprocessor:
// * kernels get an entry that unpacks their arguments;
// * `__shared__` variables become references into the machine's shared memory;
// * an `asm` statement of one instruction becomes a call of `emu::ptx::…` in device.h, one of several or of an unknown one traps.
// Images are kept by what they were made from in EMU_CACHE, else ~/.cache/cuda-emulator.

#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#define EMBED(NAME, FILE) asm(".section .rodata\n" #NAME ":\n.incbin \"" FILE "\"\n.byte 0\n.previous\n"); extern "C" const char NAME[];
EMBED(emu_machine_header, "machine.h")
EMBED(emu_device_header, "device.h")

namespace {

using std::string;
using std::vector;

typedef int Result;
constexpr Result SUCCESS = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6;

// ---- Text ------------------------------------------------------------------------------------------------------------------------------

bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }
string trimmed(const string& text) {
    const size_t first = text.find_first_not_of(" \t\n\r"), last = text.find_last_not_of(" \t\n\r");
    return first == string::npos ? "" : text.substr(first, last - first + 1);
}
size_t skip_space(const string& text, size_t at) {
    while (at < text.size() && isspace((unsigned char)text[at])) at++;
    return at;
}
// Behind a string or character that begins at `at`.
size_t skip_quoted(const string& text, size_t at) {
    const char quote = text[at];
    for (at++; at < text.size() && text[at] != quote; at++) at += text[at] == '\\';
    return at + 1;
}
// Behind the bracket that closes the one at `at`.
size_t skip_brackets(const string& text, size_t at) {
    int depth = 0;
    do {
        const char c = text.at(at);
        if (c == '"' || c == '\'') {
            at = skip_quoted(text, at);
            continue;
        }
        depth += strchr("([{", c) ? 1 : strchr(")]}", c) ? -1 : 0;
        at++;
    } while (depth > 0);
    return at;
}
// Parts between separators that are in no brackets.
vector<string> split(const string& text, char separator) {
    vector<string> parts(1);
    for (size_t at = 0; at < text.size();) {
        size_t end = at + 1;
        if (text[at] == '"' || text[at] == '\'') end = skip_quoted(text, at);
        else if (strchr("([{", text[at])) end = skip_brackets(text, at);
        else if (text[at] == separator) {
            parts.emplace_back();
            at++;
            continue;
        }
        parts.back() += text.substr(at, end - at);
        at = end;
    }
    return parts;
}
// As many line ends as there were.
string with_lines_of(string replacement, const string& original) {
    for (char c : original)
        if (c == '\n') replacement += c;
    return replacement;
}

// ---- Translation -----------------------------------------------------------------------------------------------------------------------

string instruction_name(const string& instruction) {
    string name;
    for (char c : instruction) name += is_word(c) ? c : '_';
    return name;
}

// The inside of the brackets of an `asm` statement.
string translated_asm(const string& inside) {
    // Strings stand side by side; then come outputs and inputs.
    string code;
    size_t at = skip_space(inside, 0);
    while (at < inside.size() && inside[at] == '"') {
        const size_t end = skip_quoted(inside, at);
        for (size_t i = at + 1; i + 1 < end; i++) {
            if (inside[i] == '\\') i++, code += inside[i] == 'n' || inside[i] == 't' ? ' ' : inside[i];
            else code += inside[i];
        }
        at = skip_space(inside, end);
    }
    const vector<string> sections = split(inside.substr(at), ':');
    vector<string> operands;
    for (size_t section = 1; section < sections.size() && section < 3; section++) {
        for (const string& operand : split(sections[section], ',')) {
            const size_t bracket = operand.find('(');
            if (bracket != string::npos) operands.push_back("(" + operand.substr(bracket + 1, skip_brackets(operand, bracket) - bracket - 2) + ")");
        }
    }
    code = trimmed(code);
    if (code.empty()) return "emu::ptx::nothing()";
    const size_t end = code.find(';');
    const size_t space = code.find_first_of(" ;");
    const string instruction = code.substr(0, space);
    const string call = "emu::ptx::" + instruction_name(instruction);
    const bool one = code[0] != '{' && (end == string::npos || end + 1 == code.size());
    if (!one || !strstr(emu_device_header, (" " + instruction_name(instruction) + "(").c_str())) {
        string quoted;
        for (char c : instruction == "{" ? code : instruction) quoted += c == '"' || c == '\\' ? ' ' : c;
        return "emu::emu_trap(\"an instruction that is not emulated: " + quoted + "\")";
    }
    // Operands as the instruction has them, whatever brackets they are in.
    string arguments, written = end == string::npos ? code.substr(space) : code.substr(space, end - space);
    for (char& c : written)
        if (strchr("{}[]", c)) c = ' ';
    for (const string& part : split(written, ',')) {
        const string operand = trimmed(part);
        if (operand.empty() || operand == "_") continue;
        if (!arguments.empty()) arguments += ", ";
        arguments += operand[0] == '%' ? operands.at(atoi(operand.c_str() + 1)) : operand;
    }
    return call + "(" + arguments + ")";
}

// `alignas` cannot stand in a type's definition by typedef.
string without_alignas(string text) {
    for (size_t at; (at = text.find("alignas")) != string::npos;) {
        const size_t end = skip_brackets(text, text.find('(', at));
        const string inside = text.substr(at + 7, end - at - 7);
        text.replace(at, end - at, "__attribute__((aligned" + inside + "))");
    }
    return text;
}

// Where the name is in a declarator such as `*name[3][4]`.
size_t name_in(const string& declarator, size_t& end) {
    end = declarator.find('[');
    if (end == string::npos) end = declarator.size();
    while (end > 0 && !is_word(declarator[end - 1])) end--;
    size_t start = end;
    while (start > 0 && is_word(declarator[start - 1])) start--;
    return start;
}

// What follows `__shared__` up to the semicolon.
string translated_shared(const string& declaration, bool dynamic) {
    const vector<string> declarators = split(without_alignas(declaration), ',');
    string types = "typedef ", rest;
    for (size_t i = 0; i < declarators.size(); i++) {
        size_t end;
        const size_t start = name_in(declarators[i], end);
        const string name = declarators[i].substr(start, end - start), type = "emu_type_of_" + name, variable = "emu_shared_" + name;
        if (dynamic) return "auto* const " + name + " = (" + declarators[i].substr(0, start) + "*)emu::emu_state.dynamic_shared";
        types += (i ? ", " : "") + declarators[i].substr(0, start) + type + declarators[i].substr(end);
        rest += "; static emu::Shared " + variable + " = {sizeof(" + type + "), alignof(" + type + ")}; " + type + "& " + name + " = *(" + type + "*)emu::emu_shared(" + variable + ")";
    }
    return types + rest;
}

// What a kernel is found by. Its type tells it from others of its name; `bounds` are those of its launch.
string entry(const string& name, const string& parameters, const string& bounds) {
    const string variable = "emu_kernel_" + name, type = "emu_type_of_" + name;
    return "typedef void " + type + parameters + "; extern \"C\" { extern const emu::Kernel " + variable + "; const emu::Kernel " + variable + " = emu::kernel<static_cast<" + type +
           "*>(&" + name + ")>(emu::most_threads(" + bounds + ")); }\n";
}

string translated(const string& text) {
    string out, kernels, last_word;
    bool is_extern = false; // the last words were `extern`, attributes perhaps
    for (size_t at = 0; at < text.size();) {
        const char c = text[at];
        if (c == '#' && (at == 0 || text[at - 1] == '\n')) { // a line mark or a pragma
            const size_t end = text.find('\n', at);
            out += text.substr(at, end - at);
            at = end == string::npos ? text.size() : end;
        } else if (c == '"' || c == '\'') {
            const size_t end = skip_quoted(text, at);
            out += text.substr(at, end - at);
            at = end;
        } else if (is_word(c)) {
            size_t end = at;
            while (end < text.size() && (is_word(text[end]) || (isdigit((unsigned char)c) && text[end] == '\''))) end++;
            const string word = text.substr(at, end - at);
            if (word == "__global__") {
                const size_t first = end;
                string bounds;
                // The name is what stands before the first bracket that is not an attribute's.
                string name;
                for (size_t i = first;;) {
                    i = skip_space(text, i);
                    if (text.at(i) == '(') {
                        end = i;
                        break;
                    }
                    size_t j = i;
                    while (is_word(text.at(j))) j++;
                    name = text.substr(i, j - i);
                    i = j == i ? i + 1 : j;
                    if (name == "__launch_bounds__" || name == "__attribute__") {
                        const size_t open = skip_space(text, i);
                        i = skip_brackets(text, open);
                        if (name == "__launch_bounds__") bounds = text.substr(open + 1, i - open - 2);
                    }
                }
                string head = text.substr(first, end - first);
                if (const size_t place = head.find("__launch_bounds__"); place != string::npos) {
                    const size_t behind = skip_brackets(head, head.find('(', place));
                    head.replace(place, behind - place, with_lines_of("", head.substr(place, behind - place)));
                }
                out += "__attribute__((noinline)) " + head;
                if (last_word != ">") kernels += entry(name, text.substr(end, skip_brackets(text, end) - end), bounds);
                at = end;
                is_extern = false;
                last_word = name;
                continue;
            }
            if (word == "__shared__") {
                const size_t stop = text.find(';', end);
                const string declaration = text.substr(end, stop - end);
                if (is_extern) out.erase(out.rfind("extern"));
                if (last_word == "static") out.erase(out.rfind("static"));
                out += with_lines_of(translated_shared(declaration, is_extern), declaration);
                at = stop;
            } else if (word == "asm" || word == "__asm__") {
                size_t open = skip_space(text, end);
                while (is_word(text[open])) {
                    while (is_word(text[open])) open++;
                    open = skip_space(text, open);
                }
                const size_t behind = skip_brackets(text, open);
                out += with_lines_of(translated_asm(text.substr(open + 1, behind - open - 2)), text.substr(at, behind - at));
                at = behind;
            } else {
                out += word;
                at = end;
            }
            is_extern = word == "extern" || (is_extern && word == "__attribute__");
            last_word = word;
        } else {
            out += c;
            if (!isspace((unsigned char)c)) {
                last_word = c;
                if (c == ';' || c == '{' || c == '}') is_extern = false;
            }
            at++;
        }
    }
    return out + "\n" + kernels;
}

// ---- Compilation -----------------------------------------------------------------------------------------------------------------------

string own_folder() {
    Dl_info info;
    dladdr((void*)own_folder, &info);
    const string path = info.dli_fname;
    char* whole = realpath(path.c_str(), nullptr);
    const string found = whole ? whole : path;
    free(whole);
    return found.substr(0, found.rfind('/'));
}
string cache_folder() {
    const char *given = getenv("EMU_CACHE"), *home = getenv("HOME");
    const string folder = given ? given : string(home ? home : "/tmp") + "/.cache/cuda-emulator";
    for (size_t slash = 1; slash != string::npos; slash = folder.find('/', slash + 1)) mkdir(folder.substr(0, slash).c_str(), 0777);
    mkdir(folder.c_str(), 0777);
    return folder;
}
bool read_file(const string& path, string& text) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream whole;
    whole << file.rdbuf();
    text = whole.str();
    return bool(file);
}
void write_file(const string& path, const string& text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
}
uint64_t hash(const string& text, uint64_t h = 14695981039346656037ull) {
    for (unsigned char c : text) h = (h ^ c) * 1099511628211ull;
    return h;
}
bool checks() {
    const char* text = getenv("EMU_CHECK");
    return text && atoi(text);
}
string compiler() {
    const char* given = getenv("EMU_CXX");
    return given ? given : "g++";
}
string flags() {
    const char* given = getenv("EMU_CXXFLAGS");
    return string(checks() ? "-O1 -g1 -fsanitize=thread,alignment,bounds,shift-exponent,float-cast-overflow " : "-O2 ") + "-march=native -fPIC -fno-semantic-interposition -fno-gnu-unique -fno-strict-aliasing -fwrapv -fno-math-errno " +
           "-fno-trapping-math -fno-exceptions -fno-rtti -fno-stack-protector -w " + (given ? given : "");
}

// What decides, beside the source, what an image is: this emulator, the compiler, and the processor that it compiles for.
string surroundings() {
    std::ifstream processor("/proc/cpuinfo");
    string line;
    while (std::getline(processor, line) && line.compare(0, 5, "flags")) {}
    return string(emu_machine_header) + emu_device_header + compiler() + flags() + line;
}

struct Program {
    string source, name, log, image;
};

// Runs a command; its output goes to the log.
void execute(Program& program, const string& command, const string& log) {
    const int status = system((command + " > '" + log + "' 2>&1").c_str());
    if (status == 0) return;
    read_file(log, program.log);
    throw std::runtime_error(program.log.empty() ? "cannot run " + compiler() : program.log);
}

void compile(Program& program, const vector<string>& options) {
    string standard = "-std=c++17", macros;
    int architecture = 800;
    for (const string& option : options) {
        const size_t equals = option.find('=');
        const string name = option.substr(0, equals), value = equals == string::npos ? "" : option.substr(equals + 1);
        if (name == "--std" || name == "-std") standard = "-std=" + value;
        else if (name == "--define-macro" || name == "-D") macros += " '-D" + value + "'";
        else if (option.compare(0, 2, "-D") == 0) macros += " '" + option + "'";
        else if (name == "--gpu-architecture" || name == "-arch") architecture = atoi(value.c_str() + value.find('_') + 1) * 10;
    }
    if (architecture != 800) throw std::runtime_error("only sm_80 is emulated");
    macros += " -D__CUDA_ARCH__=" + std::to_string(architecture);
    const string folder = cache_folder(), plain_name = program.name.substr(0, program.name.find('.'));
    char key[32];
    snprintf(key, sizeof key, "-%016llx", (unsigned long long)hash(program.source + standard + macros + surroundings()));
    const string base = folder + "/" + plain_name + key;
    if (read_file(base + ".so", program.image)) return;
    // Beside, so that several processes may do the same.
    const string own = base + "." + std::to_string(getpid());
    const string source = base + ".cu", plain = own + ".ii", object = own + ".o", log = own + ".log", headers = own + ".h";
    write_file(source, program.source);
    write_file(headers, string(emu_machine_header) + "\n" + emu_device_header + "\n");
    string text;
    try {
        execute(program, compiler() + " " + standard + " -E -x c++" + macros + " -include '" + headers + "' '" + source + "' -o '" + plain + "'", log);
        read_file(plain, text);
        write_file(plain, translated(text));
        execute(program, compiler() + " " + standard + " -fpreprocessed " + flags() + " -c '" + plain + "' -o '" + object + "'", log);
        execute(program, compiler() + " -shared -Wl,-Bsymbolic -o '" + own + ".so' '" + object + "' -L'" + own_folder() + "' -l:libcuda.so.1 -lm", log);
    } catch (const std::out_of_range&) {
        throw std::runtime_error(plain_name + ": the source ends inside brackets, or an asm statement lacks an operand");
    }
    if (!read_file(own + ".so", program.image)) throw std::runtime_error("cannot read " + own + ".so");
    rename((own + ".so").c_str(), (base + ".so").c_str());
    for (const string& file : {plain, object, log, headers})
        if (!getenv("EMU_KEEP")) unlink(file.c_str());
}

} // namespace

extern "C" {

Result nvrtcVersion(int* major, int* minor) {
    // Images of another emulator are not this one's.
    *major = 13;
    *minor = (int)(hash(surroundings()) % 1000000);
    return SUCCESS;
}
Result nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers, const char* const*, const char* const*) {
    if (headers || !source) return INVALID_INPUT;
    *program = new Program{source, name ? name : "program.cu", "", ""};
    return SUCCESS;
}
Result nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}
Result nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    try {
        compile(*program, vector<string>(options, options + count));
        return SUCCESS;
    } catch (const std::exception& failure) {
        program->log = failure.what();
        return COMPILATION;
    }
}
Result nvrtcGetProgramLogSize(Program* program, size_t* bytes) { return *bytes = program->log.size() + 1, SUCCESS; }
Result nvrtcGetProgramLog(Program* program, char* log) { return memcpy(log, program->log.c_str(), program->log.size() + 1), SUCCESS; }
Result nvrtcGetCUBINSize(Program* program, size_t* bytes) { return *bytes = program->image.size(), program->image.empty() ? INVALID_PROGRAM : SUCCESS; }
Result nvrtcGetCUBIN(Program* program, char* image) { return memcpy(image, program->image.data(), program->image.size()), SUCCESS; }
Result nvrtcGetPTXSize(Program* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
Result nvrtcGetPTX(Program* program, char* image) { return nvrtcGetCUBIN(program, image); }
const char* nvrtcGetErrorString(Result result) { return result == SUCCESS ? "NVRTC_SUCCESS" : result == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "an error of nvrtc"; }
}
