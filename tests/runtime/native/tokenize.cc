// Encodes what a test asks for: reads "<bytes of the text> <text>" over and over, prints the ids in a line.
#include <iostream>
#include <string>

#include "tokenizer.h"

int main(int count, char** arguments) {
  using namespace ddimcache::session;
  if (count != 2) return 2;
  try {
    const Tokenizer tokenizer(arguments[1]);
    std::cout << tokenizer.length() << std::endl;
    for (size_t length = 0; std::cin >> length && std::cin.get() == ' ';) {
      std::string text(length, '\0');
      std::cin.read(text.data(), static_cast<std::streamsize>(length));
      try {
        for (const int32_t id : tokenizer.Encode(text)) std::cout << id << ' ';
      } catch (const Failure& failure) {
        std::cout << failure.kind << ": " << failure.what();
      }
      std::cout << std::endl;
    }
  } catch (const Failure& failure) {
    std::cout << failure.kind << ": " << failure.what() << std::endl;
  }
}
